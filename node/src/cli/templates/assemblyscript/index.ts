// {name}: a guest book, to be replaced by your service.
//
//   GET  /          what has been written
//   POST /?by=NAME  writes the body into it

import { Request, Response, answer, given, saved } from "./wayfare";
export { wayfare_buffer } from "./wayfare";

const ENTRIES_MAX = 100;
const ENTRY_BYTES_MAX = 1000;

/** The state: globals, and what they refer to. It moves with the service. */
let entries: string[] = [];

function service(request: Request): Response {
  if (request.path != "/") return Response.text("There is only /\n", 404);
  if (request.method == "GET") return Response.text(entries.join(""));
  if (request.method != "POST") return Response.text("Use GET or POST\n", 405).header("Allow", "GET, POST");
  if (request.body.length > ENTRY_BYTES_MAX) return Response.text("At most 1000 bytes\n", 413);
  const by = request.field("by");
  entries.push((by ? by : "somebody") + ": " + request.text() + "\n");
  if (entries.length > ENTRIES_MAX) entries.shift();
  return Response.text("Entry " + entries.length.toString() + "\n", 201);
}

export function wayfare_handle(len: i32): i64 {
  return answer(len, service);
}

// For `wayfare update`, which hands the state of one version to the next. Write it so that older versions' states can be read, too.

export function wayfare_save(): i64 {
  return saved(String.UTF8.encode("1\0" + entries.join("\0")));
}

/** Zero: taken. Anything else: the update is refused, and the old version goes on. */
export function wayfare_load(len: i32): i32 {
  const bytes = given(len);
  const parts = String.UTF8.decodeUnsafe(bytes.dataStart, bytes.length).split("\0");
  if (parts[0] != "1") return 1;
  entries = parts.slice(1).filter((part) => part.length > 0);
  return 0;
}
