// A service's side of the ABI `wayfare:request/1`, in AssemblyScript.
//
// What is in memory between two requests, in globals and what they refer to, is the service's state, and moves with it: there is nothing to
// do for that. A request that does not parse is answered with 400 before the service sees it. A trap (an array's bounds, an assertion,
// `unreachable()`) undoes the request: the host puts memory back to before it, and the client gets 500.

// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: i32, pieces: usize, count: i32, written: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "random_get")
declare function random_get(at: usize, len: i32): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "clock_time_get")
declare function clock_time_get(clock: i32, precision: i64, out: usize): i32;

/** Headers of a request at most: more are a 400. */
const HEADERS_MAX = 128;

// ---- requests and responses ----

export class Request {
  constructor(
    /** Such as GET. */
    readonly method: string,
    /** As it was sent: split it at `/` first, then `decode` the parts. */
    readonly path: string,
    /** Behind the `?`, without it. */
    readonly query: string,
    /** Name in lower case, value, name, value, … */
    private readonly headers: string[],
    readonly body: Uint8Array,
  ) {}

  /** The value of a header, the first if there are more; null if there is none. */
  header(name: string): string | null {
    const wanted = name.toLowerCase();
    for (let i = 0; i < this.headers.length; i += 2) {
      if (this.headers[i] == wanted) return this.headers[i + 1];
    }
    return null;
  }

  /** The body as text. */
  text(): string {
    return String.UTF8.decodeUnsafe(this.body.dataStart, this.body.byteLength);
  }

  /** The decoded value of a field of the query (`?name=value&…`); null if there is none, or it is wrong. */
  field(name: string): string | null {
    return field(this.query, name);
  }
}

export class Response {
  status: i32 = 200;
  body: ArrayBuffer = new ArrayBuffer(0);
  private lines: string = "";
  private hasType: bool = false;

  /** An answer in plain text. */
  static text(body: string, status: i32 = 200): Response {
    const response = new Response();
    response.status = status;
    response.body = String.UTF8.encode(body);
    return response;
  }

  /** An answer in JSON, which is already written: see `quote`. */
  static json(body: string, status: i32 = 200): Response {
    return Response.text(body, status).header("Content-Type", "application/json");
  }

  /** Adds a header. `Content-Length` is added in the end. */
  header(name: string, value: string): Response {
    for (let i = 0; i < value.length; i++) assert(value.charCodeAt(i) >= 32, "a control character in a response's header");
    if (name.toLowerCase() == "content-type") this.hasType = true;
    this.lines += name + ": " + value + "\r\n";
    return this;
  }

  /** The whole message. */
  bytes(): ArrayBuffer {
    let head = "HTTP/1.1 " + this.status.toString() + " " + reason(this.status) + "\r\n" + this.lines;
    if (!this.hasType && this.body.byteLength > 0) head += "Content-Type: text/plain; charset=utf-8\r\n";
    // 304 tells of another body's length or of none (RFC 9110, 8.6).
    if (this.status != 204 && this.status != 304) head += "Content-Length: " + this.body.byteLength.toString() + "\r\n";
    const start = String.UTF8.encode(head + "\r\n");
    const all = new ArrayBuffer(start.byteLength + this.body.byteLength);
    memory.copy(changetype<usize>(all), changetype<usize>(start), start.byteLength);
    memory.copy(changetype<usize>(all) + start.byteLength, changetype<usize>(this.body), this.body.byteLength);
    return all;
  }
}

function reason(status: i32): string {
  switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 500: return "Internal Server Error";
    case 507: return "Insufficient Storage";
    default: return "Other";
  }
}

// ---- texts ----

function hex(code: i32): i32 {
  if (code >= 48 && code <= 57) return code - 48;
  code |= 32;
  return code >= 97 && code <= 102 ? code - 87 : -1;
}

/** Percent-decodes; pass `plus` for queries and forms, where `+` is a space. Null if an escape is wrong. */
export function decode(text: string, plus: bool = false): string | null {
  const encoded = Uint8Array.wrap(String.UTF8.encode(text)), out = new Uint8Array(encoded.length);
  let n = 0;
  for (let i = 0; i < encoded.length; i++) {
    let code: i32 = encoded[i];
    if (code == 37) {
      const high = i + 2 < encoded.length ? hex(encoded[i + 1]) : -1, low = i + 2 < encoded.length ? hex(encoded[i + 2]) : -1;
      if (high < 0 || low < 0) return null;
      code = (high << 4) | low;
      i += 2;
    } else if (code == 43 && plus) {
      code = 32;
    }
    out[n++] = u8(code);
  }
  return String.UTF8.decodeUnsafe(out.dataStart, n);
}

/** The decoded value of a field of a query or a form (`name=value&…`); null if there is none, or it is wrong. */
export function field(fields: string, name: string): string | null {
  const pairs = fields.split("&");
  for (let i = 0; i < pairs.length; i++) {
    const at = pairs[i].indexOf("=");
    const key = at < 0 ? pairs[i] : pairs[i].substring(0, at);
    if (key == name) return decode(at < 0 ? "" : pairs[i].substring(at + 1), true);
  }
  return null;
}

/** A text as a JSON string, with its quotes (RFC 8259, 7). */
export function quote(text: string): string {
  let out = '"';
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code == 34 || code == 92) out += "\\" + text.charAt(i);
    else if (code < 32 || code == 127) out += "\\u00" + (code < 16 ? "0" : "") + code.toString(16);
    else out += text.charAt(i);
  }
  return out + '"';
}

// ---- the outside: it is logged with the request, so that a host that was restarted gets to the same state ----

/** Microseconds since 1970, UTC. */
export function now(): i64 {
  const out = memory.data(8);
  clock_time_get(0, 1, out);
  return load<i64>(out) / 1000;
}

/** A line of the service's log: see `wayfare logs`. */
export function log(line: string): void {
  const bytes = String.UTF8.encode(line + "\n"), piece = memory.data(8), written = memory.data(4);
  store<u32>(piece, u32(changetype<usize>(bytes)));
  store<u32>(piece, u32(bytes.byteLength), 4);
  fd_write(2, piece, 1, written);
}

/** For the compiler (asconfig.json): what seeds Math.random. */
export function wf_seed(): f64 {
  const out = memory.data(8);
  random_get(out, 8);
  return reinterpret<f64>((load<u64>(out) >> 12) | 0x3ff0000000000000);
}

/** For the compiler (asconfig.json): what an assertion that does not hold comes to. */
export function wf_abort(message: string | null, file: string | null, line: u32, column: u32): void {
  log("aborted: " + (message ? message : "") + " (" + (file ? file : "") + ":" + line.toString() + ")");
  unreachable();
}

// ---- the ABI ----

let received: ArrayBuffer = new ArrayBuffer(0);
let sent: ArrayBuffer = new ArrayBuffer(0);

/** Room for the next request, or for a state of any length. */
export function wayfare_buffer(len: i32): usize {
  received = new ArrayBuffer(max(len, 1));
  return changetype<usize>(received);
}

/** What was put into the buffer. */
export function given(len: i32): Uint8Array {
  return Uint8Array.wrap(received, 0, len);
}

function packed(bytes: ArrayBuffer): i64 {
  sent = bytes; // held until the next call
  return (i64(changetype<usize>(bytes)) << 32) | i64(bytes.byteLength);
}

/** The bytes of a state, for `wayfare_save`. */
export function saved(bytes: ArrayBuffer): i64 {
  return packed(bytes);
}

/** Answers the request that was put into the buffer. */
export function answer(len: i32, service: (request: Request) => Response): i64 {
  const request = parse(given(len));
  return packed((request ? service(request) : Response.text("not an HTTP/1.1 request\n", 400)).bytes());
}

function parse(message: Uint8Array): Request | null {
  let end = -1;
  for (let i = 0; i + 3 < message.length; i++) {
    if (message[i] == 13 && message[i + 1] == 10 && message[i + 2] == 13 && message[i + 3] == 10) {
      end = i;
      break;
    }
  }
  if (end < 0) return null;
  const lines = String.UTF8.decodeUnsafe(message.dataStart, end).split("\r\n");
  const words = lines[0].split(" ");
  if (words.length != 3 || words[0].length == 0 || words[2] != "HTTP/1.1" || lines.length > HEADERS_MAX + 1) return null;
  const headers: string[] = [];
  let length: i64 = 0;
  for (let i = 1; i < lines.length; i++) {
    const colon = lines[i].indexOf(":");
    if (colon < 1) return null;
    const name = lines[i].substring(0, colon).toLowerCase(), value = lines[i].substring(colon + 1).trim();
    if (name == "transfer-encoding") return null;
    if (name == "content-length") length = I64.parseInt(value);
    headers.push(name);
    headers.push(value);
  }
  const body = message.subarray(end + 4);
  if (length != body.length) return null;
  const mark = words[1].indexOf("?");
  const path = mark < 0 ? words[1] : words[1].substring(0, mark), query = mark < 0 ? "" : words[1].substring(mark + 1);
  return new Request(words[0], path, query, headers, body);
}
