/* {name}: a guest book, to be replaced by your service.
 *
 *   GET  /          what has been written
 *   POST /?by=NAME  writes the body, one line, into it */
#include "wayfare.h"

enum { ENTRIES_MAX = 100, BY_BYTES_MAX = 40, ENTRY_BYTES_MAX = 1000 };

struct entry {
    uint32_t len;
    char text[BY_BYTES_MAX + ENTRY_BYTES_MAX + 3]; /* "by: entry\n" */
};

/* The state: whatever is in memory. It moves with the service. */
static struct entry entries[ENTRIES_MAX];
static uint32_t entry_count;

static void append(struct entry *entry, wf_text text) {
    memcpy(entry->text + entry->len, text.at, text.len);
    entry->len += (uint32_t)text.len;
}

/* The next entry's place; the oldest goes if there is none. */
static struct entry *new_entry(void) {
    if (entry_count == ENTRIES_MAX) memmove(&entries[0], &entries[1], --entry_count * sizeof *entries);
    struct entry *entry = &entries[entry_count++];
    entry->len = 0;
    return entry;
}

static void write_entry(const wf_request *request, wf_response *response) {
    char name[BY_BYTES_MAX];
    wf_text by = wf_field(request->query, "by", name, sizeof name);
    if (request->body.len > ENTRY_BYTES_MAX) return wf_say(response, 413, "At most 1000 bytes");
    if (wf_find(request->body, '\n') < request->body.len || wf_find(by, '\n') < by.len)
        return wf_say(response, 400, "One line only");
    struct entry *entry = new_entry();
    append(entry, by.len ? by : WF_TEXT("somebody"));
    append(entry, WF_TEXT(": "));
    append(entry, request->body);
    append(entry, WF_TEXT("\n"));
    wf_status(response, 201);
    wf_puts(response, "Entry ");
    wf_put_uint(response, entry_count);
    wf_puts(response, "\n");
}

void service(const wf_request *request, wf_response *response) {
    if (!wf_is(request->path, "/")) return wf_say(response, 404, "There is only /");
    if (wf_is(request->method, "POST")) return write_entry(request, response);
    if (!wf_is(request->method, "GET")) {
        wf_add_header(response, "Allow", WF_TEXT("GET, POST"));
        return wf_say(response, 405, "Use GET or POST");
    }
    for (uint32_t i = 0; i < entry_count; i++) wf_put(response, (wf_text){entries[i].text, entries[i].len});
}

/* For `wayfare update`, which hands the state of one version to the next. Write it so that older versions' states can be read, too. */

WF_EXPORT("wayfare_save") uint64_t save(void) {
    static char saved[2 + sizeof entries];
    size_t len = 2;
    memcpy(saved, "1\n", 2);
    for (uint32_t i = 0; i < entry_count; i++) {
        memcpy(saved + len, entries[i].text, entries[i].len);
        len += entries[i].len;
    }
    return wf_packed(saved, len);
}

/* Zero: taken. Anything else: the update is refused, and the old version goes on. */
WF_EXPORT("wayfare_load") int32_t load(uint32_t len) {
    wf_text rest = wf_given(len);
    if (!wf_strip(&rest, "1\n")) return 1;
    while (rest.len) {
        wf_text line = wf_split(&rest, '\n');
        if (line.len + 1 > sizeof entries->text) return 1;
        struct entry *entry = new_entry();
        append(entry, line);
        append(entry, WF_TEXT("\n"));
    }
    return 0;
}
