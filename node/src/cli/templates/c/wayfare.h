/* wayfare.h: a service's side of the ABI `wayfare:request/1`, in one header.
 *
 * Include it in one C file, and define `service`: it gets each request and writes the answer.
 *
 *     #include "wayfare.h"
 *
 *     static int visits;
 *
 *     void service(const wf_request *request, wf_response *response) {
 *         if (!wf_is(request->path, "/")) {
 *             wf_status(response, 404);
 *             return;
 *         }
 *         wf_put_int(response, ++visits);
 *         wf_puts(response, " visits\n");
 *     }
 *
 * What is in memory between two requests is the service's state, and moves with it: there is nothing to do for that.
 *
 * Requests are untrusted. Everything here checks bounds; a text that is asked for and absent has `at == NULL` and `len == 0`.
 * Memory: one buffer for requests and one for responses, which grow as needed, up to the limits below, and shrink when a large
 * one is done with. No other function allocates. A request that does not parse is answered with 400 before `service` sees it.
 * A response for which there is no memory, or which is too long, ends the request with a trap: the host puts memory back to
 * before the request, and the client gets 500. `wf_fail` does the same on purpose. */
#ifndef WAYFARE_H
#define WAYFARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The bounds; define them before the include to change them. */
#ifndef WF_REQUEST_BYTES_MAX
#define WF_REQUEST_BYTES_MAX ((size_t)2 << 20) /* head and body; a host passes on no longer one */
#endif
#ifndef WF_RESPONSE_BYTES_MAX
#define WF_RESPONSE_BYTES_MAX ((size_t)2 << 20) /* head and body; a host takes no longer one */
#endif
enum {
    WF_HEAD_BYTES_MAX = 1024,      /* status line and headers of a response */
    WF_HEADERS_MAX = 128,          /* of a request: more are a 400 */
    WF_KEPT_BYTES_MAX = 128 << 10, /* of each buffer between two requests */
};

#define WF_EXPORT(name) __attribute__((export_name(name)))
#define WF_FUNCTION __attribute__((unused)) static

/* ---- texts: bytes with a length, not ended by a zero ---- */

typedef struct {
    const char *at;
    size_t len;
} wf_text;

#define WF_TEXT(literal) ((wf_text){(literal), sizeof(literal) - 1})

WF_FUNCTION wf_text wf_text_of(const char *ended) { return (wf_text){ended, strlen(ended)}; }

WF_FUNCTION bool wf_equal(wf_text a, wf_text b) { return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0); }

WF_FUNCTION bool wf_is(wf_text text, const char *ended) { return wf_equal(text, wf_text_of(ended)); }

WF_FUNCTION char wf_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

/* Without regard to the case of ASCII letters. */
WF_FUNCTION bool wf_is_ignoring_case(wf_text text, const char *ended) {
    for (size_t i = 0; i < text.len; i++)
        if (ended[i] == 0 || wf_lower(text.at[i]) != wf_lower(ended[i])) return false;
    return ended[text.len] == 0;
}

/* From `from` up to and without `to`, both cut to the text. */
WF_FUNCTION wf_text wf_sub(wf_text text, size_t from, size_t to) {
    if (to > text.len) to = text.len;
    if (from > to) from = to;
    return text.at ? (wf_text){text.at + from, to - from} : text;
}

/* Where `byte` is first, or the text's length. */
WF_FUNCTION size_t wf_find(wf_text text, char byte) {
    const char *hit = text.len ? memchr(text.at, byte, text.len) : NULL;
    return hit ? (size_t)(hit - text.at) : text.len;
}

/* Cuts off what is before the first `byte`: returns it, and leaves in `rest` what is behind that byte. */
WF_FUNCTION wf_text wf_split(wf_text *rest, char byte) {
    size_t end = wf_find(*rest, byte);
    wf_text first = wf_sub(*rest, 0, end);
    *rest = wf_sub(*rest, end + 1, rest->len);
    return first;
}

/* If the text starts with `prefix`, takes that off. */
WF_FUNCTION bool wf_strip(wf_text *text, const char *prefix) {
    wf_text start = wf_text_of(prefix);
    if (!wf_equal(wf_sub(*text, 0, start.len), start)) return false;
    *text = wf_sub(*text, start.len, text->len);
    return true;
}

WF_FUNCTION wf_text wf_trim(wf_text text) {
    while (text.len && (text.at[0] == ' ' || text.at[0] == '\t')) text = wf_sub(text, 1, text.len);
    while (text.len && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t')) text.len--;
    return text;
}

/* A decimal number without a sign. False if it is none, or does not fit. */
WF_FUNCTION bool wf_number(wf_text text, uint64_t *number) {
    uint64_t value = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.at[i] < '0' || text.at[i] > '9') return false;
        uint64_t digit = (uint64_t)(text.at[i] - '0');
        if (value > (UINT64_MAX - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *number = value;
    return text.len > 0;
}

WF_FUNCTION int wf_hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = wf_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes into `out`, which has `room` bytes: pass `plus` for queries and forms, where `+` is a space. The decoded text
 * (which is in `out`), or an absent one if an escape is wrong or there is too little room. */
WF_FUNCTION wf_text wf_decode(wf_text text, bool plus, char *out, size_t room) {
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (c == '%') {
            if (text.len - i < 3) return (wf_text){NULL, 0};
            int high = wf_hex(text.at[i + 1]), low = wf_hex(text.at[i + 2]);
            if (high < 0 || low < 0) return (wf_text){NULL, 0};
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (n == room) return (wf_text){NULL, 0};
        out[n++] = c;
    }
    return (wf_text){out, n};
}

/* Bytes of the UTF-8 character at `at`, 1 to 4; 0 if there is none (RFC 3629: no surrogates, nothing longer than need be). */
WF_FUNCTION size_t wf_utf8_len(wf_text text, size_t at) {
    const uint8_t *s = (const uint8_t *)text.at + at;
    size_t left = at < text.len ? text.len - at : 0;
    if (left == 0) return 0;
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    if (len == 0 || left < len) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) return 0;
    if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0;
    return len;
}

WF_FUNCTION bool wf_is_utf8(wf_text text) {
    for (size_t at = 0, len; at < text.len; at += len)
        if ((len = wf_utf8_len(text, at)) == 0) return false;
    return true;
}

/* ---- requests ---- */

typedef struct {
    wf_text method;  /* such as GET */
    wf_text path;    /* as it was sent: split it at `/` first, then `wf_decode` the parts */
    wf_text query;   /* behind the `?`, without it */
    wf_text headers; /* lines, each ended by CR LF: see `wf_header` */
    wf_text body;
} wf_request;

/* The value of a header, the first if there are more; absent if there is none. */
WF_FUNCTION wf_text wf_header(const wf_request *request, const char *name) {
    wf_text rest = request->headers;
    while (rest.len) {
        wf_text line = wf_split(&rest, '\n'), key = wf_split(&line, ':');
        if (wf_is_ignoring_case(key, name)) return wf_trim(wf_sub(line, 0, line.len - 1));
    }
    return (wf_text){NULL, 0};
}

/* The decoded value of a field of the query (`?name=value&…`), in `out`; absent if it is not there, wrong, or longer than `room`.
 * A form's body reads the same way: `wf_field(request->body, …)`. */
WF_FUNCTION wf_text wf_field(wf_text fields, const char *name, char *out, size_t room) {
    while (fields.len) {
        wf_text value = wf_split(&fields, '&'), key = wf_split(&value, '=');
        if (wf_is(key, name)) return wf_decode(value.at ? value : WF_TEXT(""), true, out, room);
    }
    return (wf_text){NULL, 0};
}

/* Splits an HTTP/1.1 message. NULL, or what is wrong with it. */
WF_FUNCTION const char *wf_parse(wf_text rest, wf_request *request) {
    size_t end = wf_find(rest, '\n');
    if (end == rest.len || end < 1 || rest.at[end - 1] != '\r') return "no request line";
    wf_text line = wf_sub(rest, 0, end - 1);
    rest = wf_sub(rest, end + 1, rest.len);
    request->method = wf_split(&line, ' ');
    wf_text target = wf_split(&line, ' ');
    if (request->method.len == 0 || target.len == 0 || !wf_is(line, "HTTP/1.1")) return "not an HTTP/1.1 request line";
    request->path = wf_split(&target, '?');
    request->query = target;

    request->headers = (wf_text){rest.at, 0};
    bool has_length = false;
    uint64_t length = 0;
    for (int count = 0;; count++) {
        end = wf_find(rest, '\n');
        if (end == rest.len || end < 1 || rest.at[end - 1] != '\r') return "headers without an end";
        line = wf_sub(rest, 0, end - 1);
        rest = wf_sub(rest, end + 1, rest.len);
        if (line.len == 0) break;
        if (count == WF_HEADERS_MAX) return "too many headers";
        request->headers.len += end + 1;
        wf_text value = line, name = wf_split(&value, ':');
        if (name.len == 0 || name.len == line.len) return "a header line without a name";
        if (wf_is_ignoring_case(name, "transfer-encoding")) return "Transfer-Encoding is not supported";
        if (wf_is_ignoring_case(name, "content-length")) {
            if (has_length || !wf_number(wf_trim(value), &length)) return "a bad Content-Length";
            has_length = true;
        }
    }
    if (length != rest.len) return "the body is not as long as Content-Length says";
    request->body = rest;
    return NULL;
}

/* ---- responses: 200, and text/plain in UTF-8, unless something else is said ---- */

typedef struct {
    char *buffer; /* WF_HEAD_BYTES_MAX bytes for the head, then the body */
    size_t capacity, body_len, headers_len;
    int status;
    bool has_type;
    char headers[WF_HEAD_BYTES_MAX - 64]; /* lines, each ended by CR LF */
} wf_response;

/* Ends the request: memory is put back to before it, the client gets 500, and the service's log says why. */
WF_FUNCTION _Noreturn void wf_fail(const char *why) {
    static const char start[] = "the request is undone: ";
    (void)!write(STDERR_FILENO, start, sizeof start - 1);
    (void)!write(STDERR_FILENO, why, strlen(why));
    (void)!write(STDERR_FILENO, "\n", 1);
    __builtin_trap();
}

/* Makes `*buffer` at least `len` bytes long. False, and nothing changed, if there is no memory for that. */
WF_FUNCTION bool wf_reserve(char **buffer, size_t *capacity, size_t len) {
    if (len <= *capacity) return true;
    char *larger = realloc(*buffer, len);
    if (!larger) return false;
    *buffer = larger;
    *capacity = len;
    return true;
}

WF_FUNCTION void wf_status(wf_response *response, int status) { response->status = status; }

/* Adds a header. `Content-Length` is added in the end. */
WF_FUNCTION void wf_add_header(wf_response *response, const char *name, wf_text value) {
    size_t name_len = strlen(name), len = name_len + value.len + 4;
    if (len > sizeof response->headers - response->headers_len) wf_fail("the response's headers are too long");
    for (size_t i = 0; i < value.len; i++)
        if ((uint8_t)value.at[i] < ' ' && value.at[i] != '\t') wf_fail("a control character in a response's header");
    char *out = response->headers + response->headers_len;
    memcpy(out, name, name_len);
    memcpy(out + name_len, ": ", 2);
    if (value.len) memcpy(out + name_len + 2, value.at, value.len);
    memcpy(out + len - 2, "\r\n", 2);
    response->headers_len += len;
    response->has_type |= wf_is_ignoring_case(wf_text_of(name), "content-type");
}

WF_FUNCTION void wf_type(wf_response *response, const char *type) {
    wf_add_header(response, "Content-Type", wf_text_of(type));
}

/* Adds to the body. */
WF_FUNCTION void wf_put(wf_response *response, wf_text text) {
    size_t used = WF_HEAD_BYTES_MAX + response->body_len;
    if (text.len > WF_RESPONSE_BYTES_MAX - used) wf_fail("the response is too long");
    if (text.len > response->capacity - used) {
        size_t len = response->capacity * 2;
        if (len < used + text.len) len = used + text.len;
        if (len > WF_RESPONSE_BYTES_MAX) len = WF_RESPONSE_BYTES_MAX;
        if (!wf_reserve(&response->buffer, &response->capacity, len)) wf_fail("there is no memory for the response");
    }
    if (text.len) memcpy(response->buffer + used, text.at, text.len);
    response->body_len += text.len;
}

WF_FUNCTION void wf_puts(wf_response *response, const char *ended) { wf_put(response, wf_text_of(ended)); }

/* How many bytes of body still fit. */
WF_FUNCTION size_t wf_room(const wf_response *response) {
    return WF_RESPONSE_BYTES_MAX - WF_HEAD_BYTES_MAX - response->body_len;
}

/* Writes a number in decimal; its digits, of which there are 20 at most. */
WF_FUNCTION size_t wf_decimal(uint64_t value, char *out) {
    char digits[20];
    size_t n = 0;
    do digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    for (size_t i = 0; i < n; i++) out[i] = digits[n - 1 - i];
    return n;
}

WF_FUNCTION void wf_put_uint(wf_response *response, uint64_t value) {
    char digits[20];
    wf_put(response, (wf_text){digits, wf_decimal(value, digits)});
}

WF_FUNCTION void wf_put_int(wf_response *response, int64_t value) {
    if (value < 0) wf_puts(response, "-");
    wf_put_uint(response, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

/* A text as a JSON string with its quotes (RFC 8259, 7). Bytes that are no UTF-8 become U+FFFD. */
WF_FUNCTION void wf_put_json(wf_response *response, wf_text text) {
    wf_puts(response, "\"");
    size_t from = 0, at = 0;
    while (at < text.len) {
        size_t len = wf_utf8_len(text, at);
        uint8_t c = (uint8_t)text.at[at];
        if (len > 1 || (len == 1 && c >= ' ' && c != '"' && c != '\\' && c != 0x7f)) {
            at += len;
            continue;
        }
        wf_put(response, wf_sub(text, from, at));
        char escape[6] = {'\\', 'u', '0', '0', "0123456789abcdef"[c >> 4], "0123456789abcdef"[c & 15]};
        if (len == 0) wf_puts(response, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\') wf_put(response, (wf_text){(char[]){'\\', (char)c}, 2});
        else if (c == '\n') wf_puts(response, "\\n");
        else wf_put(response, (wf_text){escape, sizeof escape});
        from = ++at;
    }
    wf_put(response, wf_sub(text, from, text.len));
    wf_puts(response, "\"");
}

/* Answers with a status and one line of text, instead of what the body had. */
WF_FUNCTION void wf_say(wf_response *response, int status, const char *line) {
    response->status = status;
    response->body_len = 0;
    wf_puts(response, line);
    wf_puts(response, "\n");
}

WF_FUNCTION const char *wf_reason(int status) {
    static const struct {
        int status;
        const char *reason;
    } known[] = {{200, "OK"},           {201, "Created"},           {204, "No Content"},         {303, "See Other"},
                 {304, "Not Modified"}, {400, "Bad Request"},       {403, "Forbidden"},          {404, "Not Found"},
                 {409, "Conflict"},     {405, "Method Not Allowed"}, {412, "Precondition Failed"}, {413, "Content Too Large"},
                 {415, "Unsupported Media Type"}, {422, "Unprocessable Content"}, {429, "Too Many Requests"},
                 {500, "Internal Server Error"},  {507, "Insufficient Storage"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].reason;
    return "Other";
}

/* ---- the ABI ---- */

/* Answers a request; the guest's own. */
void service(const wf_request *request, wf_response *response);

WF_FUNCTION uint64_t wf_packed(const void *at, size_t len) { return (uint64_t)(uintptr_t)at << 32 | len; }

static struct {
    char *request;
    size_t request_capacity;
    wf_response response;
} wf_state;

/* Lets go of a buffer that has become large, so that it need not be moved. */
WF_FUNCTION void wf_shrink(char **buffer, size_t *capacity) {
    if (*capacity <= WF_KEPT_BYTES_MAX) return;
    free(*buffer);
    *buffer = NULL;
    *capacity = 0;
}

/* Any length: `wayfare_load` gets a whole state this way. What is longer than a request may be is no request. */
WF_EXPORT("wayfare_buffer") char *wf_buffer(uint32_t len) {
    if (len <= WF_KEPT_BYTES_MAX) wf_shrink(&wf_state.request, &wf_state.request_capacity);
    if (!wf_reserve(&wf_state.request, &wf_state.request_capacity, len ? len : 1)) return NULL;
    return wf_state.request;
}

/* What was put into the buffer last: for `wayfare_load`. */
WF_FUNCTION wf_text wf_given(uint32_t len) {
    return (wf_text){wf_state.request, len <= wf_state.request_capacity ? len : 0};
}

/* Puts the head before the body, and returns where the message is. */
WF_FUNCTION uint64_t wf_finish(wf_response *response) {
    if (!response->has_type && response->body_len) wf_type(response, "text/plain; charset=utf-8");
    char length[20];
    /* 304 tells of another body's length or of none (RFC 9110, 8.6). */
    if (response->status != 204 && response->status != 304)
        wf_add_header(response, "Content-Length", (wf_text){length, wf_decimal(response->body_len, length)});
    char line[64] = "HTTP/1.1 ";
    size_t n = 9 + wf_decimal((uint64_t)response->status, line + 9);
    const char *reason = wf_reason(response->status);
    line[n++] = ' ';
    memcpy(line + n, reason, strlen(reason));
    n += strlen(reason);
    memcpy(line + n, "\r\n", 2);
    n += 2;
    char *at = response->buffer + WF_HEAD_BYTES_MAX - n - response->headers_len - 2;
    memcpy(at, line, n);
    memcpy(at + n, response->headers, response->headers_len);
    memcpy(at + n + response->headers_len, "\r\n", 2);
    return wf_packed(at, n + response->headers_len + 2 + response->body_len);
}

WF_EXPORT("wayfare_handle") uint64_t wf_handle(uint32_t len) {
    static const char full[] = "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n";
    wf_response *response = &wf_state.response;
    wf_shrink(&response->buffer, &response->capacity);
    if (!wf_reserve(&response->buffer, &response->capacity, WF_HEAD_BYTES_MAX + 256)) return wf_packed(full, sizeof full - 1);
    response->body_len = response->headers_len = 0;
    response->status = 200;
    response->has_type = false;
    wf_request request = {0};
    const char *wrong = len > WF_REQUEST_BYTES_MAX ? "a request that is too long" : wf_parse(wf_given(len), &request);
    if (wrong) wf_say(response, 400, wrong);
    else service(&request, response);
    return wf_finish(response);
}

#endif
