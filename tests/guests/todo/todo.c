/* A to-do list that several people edit at a time, and its page.
 *
 *   GET    /, /page.css, /page.js   the page
 *   GET    /items             {"list":"…","version":N,"items":[{"id":"…","text":"…","done":false},…]} in the order of adding, with an
 *                             ETag: with If-None-Match it answers 304 until something has changed
 *   PUT    /items/ID          adds an item, or changes its text: the body, one line of UTF-8. ID is the client's choice
 *   PUT    /items/ID/done     true or false
 *   DELETE /items/ID          also if there is none
 *   DELETE /done              deletes what is done
 *
 * A change answers {"version":N}. Each may be made twice and comes to the same, so a client may repeat what had no answer; `list` is
 * another for each new list, whose versions begin again. Changes are not simple requests (PUT, DELETE), so browsers let no other
 * site's page make them. */
#include "wayfare.h"

enum {
    ITEMS_MAX = 500,
    TEXT_BYTES_MAX = 800, /* 200 characters */
    ID_BYTES_MAX = 40,
};

struct item {
    char id[ID_BYTES_MAX];
    uint8_t id_len;
    bool done;
    uint16_t text_len;
    char *text;
};

static struct item items[ITEMS_MAX];
static uint32_t item_count;
static uint64_t version; /* rises with each change */
static uint64_t list;    /* random */

/* ---- the page, as it is in these files ---- */

#define EMBED(name, file)                                                                                                      \
    __asm__(".section .rodata." #name ",\"\",@\n.globl " #name "\n" #name ":\n.incbin \"" file "\"\n.globl " #name "_end\n"    \
            #name "_end:\n.int8 0\n.size " #name ", .-" #name "\n.type " #name ",@object\n.size " #name "_end, 1\n.type " #name \
            "_end,@object\n");                                                                                                 \
    extern const char name[], name##_end[]

EMBED(page_html, "page.html");
EMBED(page_css, "page.css");
EMBED(page_js, "page.js");

static uint64_t fnv(wf_text text) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < text.len; i++) hash = (hash ^ (uint8_t)text.at[i]) * 0x100000001b3u;
    return hash;
}

static void hex(uint64_t value, char out[16]) {
    for (int i = 0; i < 16; i++) out[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
}

/* The ETag "A-N", and whether the client has just that already (RFC 9110, 13.1.2: lists and weak ones count too). */
static bool is_known(const wf_request *request, wf_response *response, uint64_t a, uint64_t n) {
    char tag[40] = "\"";
    hex(a, tag + 1);
    tag[17] = '-';
    size_t len = 18 + wf_decimal(n, tag + 18);
    tag[len++] = '"';
    wf_add_header(response, "ETag", (wf_text){tag, len});
    wf_text known = wf_header(request, "if-none-match");
    while (known.len) {
        wf_text one = wf_trim(wf_split(&known, ','));
        wf_strip(&one, "W/");
        if (wf_equal(one, (wf_text){tag, len})) {
            wf_status(response, 304);
            return true;
        }
    }
    return false;
}

static void file(const wf_request *request, wf_response *response, const char *type, const char *from, const char *to) {
    wf_text text = {from, (size_t)(to - from)};
    wf_add_header(response, "Cache-Control", WF_TEXT("no-cache"));
    wf_add_header(response, "X-Content-Type-Options", WF_TEXT("nosniff"));
    wf_add_header(response, "Referrer-Policy", WF_TEXT("no-referrer"));
    wf_add_header(response, "Content-Security-Policy",
                  WF_TEXT("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
                          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"));
    if (is_known(request, response, fnv(text), text.len)) return;
    wf_type(response, type);
    wf_put(response, text);
}

/* ---- the list ---- */

static struct item *find_item(wf_text id) {
    for (uint32_t i = 0; i < item_count; i++)
        if (wf_equal((wf_text){items[i].id, items[i].id_len}, id)) return &items[i];
    return NULL;
}

static void erase(struct item *item) {
    free(item->text);
    memmove(item, item + 1, (size_t)(&items[--item_count] - item) * sizeof *item);
    version++;
}

/* A new or changed text. NULL, or what is wrong. */
static const char *put_text(wf_text id, wf_text text, wf_response *response) {
    struct item *item = find_item(id);
    if (item && wf_equal((wf_text){item->text, item->text_len}, text)) return NULL;
    if (!item && item_count == ITEMS_MAX) {
        wf_status(response, 507);
        return "The list is full: delete something first.";
    }
    char *copy = malloc(text.len);
    if (!copy) {
        wf_status(response, 507);
        return "There is no memory for more.";
    }
    memcpy(copy, text.at, text.len);
    if (item) {
        free(item->text);
    } else {
        item = &items[item_count++];
        *item = (struct item){.id_len = (uint8_t)id.len};
        memcpy(item->id, id.at, id.len);
        wf_status(response, 201);
    }
    item->text = copy;
    item->text_len = (uint16_t)text.len;
    version++;
    return NULL;
}

static bool is_line(wf_text text) {
    for (size_t i = 0; i < text.len; i++)
        if ((uint8_t)text.at[i] < ' ' || text.at[i] == 0x7f) return false;
    return wf_is_utf8(text);
}

static bool is_id(wf_text id) {
    for (size_t i = 0; i < id.len; i++) {
        char c = wf_lower(id.at[i]);
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-') return false;
    }
    return id.len > 0 && id.len <= ID_BYTES_MAX;
}

static void get_items(const wf_request *request, wf_response *response) {
    char name[16];
    wf_add_header(response, "Cache-Control", WF_TEXT("no-cache"));
    if (is_known(request, response, list, version)) return;
    hex(list, name);
    wf_type(response, "application/json");
    wf_puts(response, "{\"list\":");
    wf_put_json(response, (wf_text){name, sizeof name});
    wf_puts(response, ",\"version\":");
    wf_put_uint(response, version);
    wf_puts(response, ",\"items\":[");
    for (uint32_t i = 0; i < item_count; i++) {
        wf_puts(response, i ? ",{\"id\":" : "{\"id\":");
        wf_put_json(response, (wf_text){items[i].id, items[i].id_len});
        wf_puts(response, ",\"text\":");
        wf_put_json(response, (wf_text){items[i].text, items[i].text_len});
        wf_puts(response, items[i].done ? ",\"done\":true}" : ",\"done\":false}");
    }
    wf_puts(response, "]}\n");
}

/* A change; NULL, or what is wrong with it, under the status that `response` has. `path` is behind /items/. */
static const char *change_item(const wf_request *request, wf_text path, wf_response *response) {
    wf_text id = wf_split(&path, '/');
    bool puts = wf_is(request->method, "PUT"), deletes = wf_is(request->method, "DELETE");
    wf_status(response, 400);
    if (!is_id(id)) return "An id is 1 to 40 letters, digits and hyphens.";
    if (path.at && path.len == 4 && wf_is(path, "done") && puts) {
        bool done = wf_is(request->body, "true");
        if (!done && !wf_is(request->body, "false")) return "Done is true or false.";
        struct item *item = find_item(id);
        wf_status(response, item ? 200 : 404);
        if (!item) return "There is no such item.";
        version += item->done != done;
        item->done = done;
        return NULL;
    }
    if (path.len == 0 && puts) {
        if (request->body.len > TEXT_BYTES_MAX) return "The text is longer than 800 bytes.";
        if (wf_trim(request->body).len == 0 || !is_line(request->body)) return "A text is one line of UTF-8 that is not empty.";
        wf_status(response, 200);
        return put_text(id, wf_trim(request->body), response);
    }
    if (path.len == 0 && deletes) {
        struct item *item = find_item(id);
        if (item) erase(item);
        wf_status(response, 200);
        return NULL;
    }
    wf_status(response, 405);
    wf_add_header(response, "Allow", path.len ? WF_TEXT("PUT") : WF_TEXT("PUT, DELETE"));
    return "Use another method.";
}

static void say(wf_response *response, const char *wrong) {
    wf_type(response, "application/json");
    wf_puts(response, wrong ? "{\"error\":" : "{\"version\":");
    if (wrong) wf_put_json(response, wf_text_of(wrong));
    else wf_put_uint(response, version);
    wf_puts(response, "}\n");
}

void service(const wf_request *request, wf_response *response) {
    bool gets = wf_is(request->method, "GET");
    wf_text path = request->path;
    if (gets && wf_is(path, "/")) return file(request, response, "text/html; charset=utf-8", page_html, page_html_end);
    if (gets && wf_is(path, "/page.css")) return file(request, response, "text/css; charset=utf-8", page_css, page_css_end);
    if (gets && wf_is(path, "/page.js")) return file(request, response, "text/javascript; charset=utf-8", page_js, page_js_end);
    if (gets && wf_is(path, "/items")) return get_items(request, response);
    if (wf_is(path, "/done") && wf_is(request->method, "DELETE")) {
        for (uint32_t i = item_count; i-- > 0;)
            if (items[i].done) erase(&items[i]);
        return say(response, NULL);
    }
    if (wf_strip(&path, "/items/")) return say(response, change_item(request, path, response));
    wf_status(response, 404);
    say(response, "There is no such page.");
}

/* Runs once in the service's life, at its first start and never after a move. */
__attribute__((constructor)) static void start(void) { (void)!getentropy(&list, sizeof list); }

/* ---- the state for another version of this service: a format that does not depend on how this one keeps it ----
 *
 * "todo1", list and version (8 bytes each), number of items (2); then for each item: the lengths of id and text (1 and 2), done (1), id,
 * text. Numbers are little endian. */

static const char magic[5] = "todo1";
static char *saved;

static void store(char **out, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) *(*out)++ = (char)(value >> 8 * i);
}

static uint64_t load_number(wf_text *in, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes && i < (int)in->len; i++) value |= (uint64_t)(uint8_t)in->at[i] << 8 * i;
    *in = wf_sub(*in, (size_t)bytes, in->len);
    return value;
}

WF_EXPORT("wayfare_save") uint64_t save(void) {
    size_t len = sizeof magic + 18;
    for (uint32_t i = 0; i < item_count; i++) len += 4u + items[i].id_len + items[i].text_len;
    free(saved);
    saved = malloc(len);
    if (!saved) return 0;
    char *out = saved;
    memcpy(out, magic, sizeof magic);
    out += sizeof magic;
    store(&out, list, 8);
    store(&out, version, 8);
    store(&out, item_count, 2);
    for (uint32_t i = 0; i < item_count; i++) {
        store(&out, items[i].id_len, 1);
        store(&out, items[i].text_len, 2);
        store(&out, items[i].done, 1);
        memcpy(out, items[i].id, items[i].id_len);
        memcpy(out + items[i].id_len, items[i].text, items[i].text_len);
        out += items[i].id_len + items[i].text_len;
    }
    return wf_packed(saved, len);
}

WF_EXPORT("wayfare_load") int32_t load(uint32_t len) {
    wf_response ignored = {0};
    wf_text in = wf_given(len);
    if (in.len < sizeof magic + 18 || memcmp(in.at, magic, sizeof magic) != 0) return 1;
    in = wf_sub(in, sizeof magic, in.len);
    uint64_t list_saved = load_number(&in, 8), version_saved = load_number(&in, 8), count = load_number(&in, 2);
    while (in.len) {
        size_t id_len = load_number(&in, 1), text_len = load_number(&in, 2);
        bool done = load_number(&in, 1);
        wf_text id = wf_sub(in, 0, id_len), text = wf_sub(in, id_len, id_len + text_len);
        if (!is_id(id) || id.len + text.len != id_len + text_len || text.len == 0 || find_item(id)) return 1;
        if (put_text(id, text, &ignored)) return 1;
        items[item_count - 1].done = done;
        in = wf_sub(in, id_len + text_len, in.len);
    }
    list = list_saved;
    version = version_saved;
    return item_count == count ? 0 : 1;
}
