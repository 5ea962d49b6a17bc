/* A key-value store and a counter: the guest that Wayfare's tests and demos move between clouds.
 *
 *   GET, PUT, DELETE /k/<key>   values of any bytes; the key is one percent-decoded path segment
 *   GET, POST /count            read, or add one and read, a 64-bit counter
 *   GET /version                which version of this code answers
 *   GET /digest                 hash of the logical state: counter, keys and values, in key order
 *
 * ABI `wayfare:request/1` (see ../README.md). Everything that must survive a move lives in linear memory, so there is
 * no code here that knows about moves; only another version of this code is handed the contents (wayfare_save, wayfare_load).
 * Requests are untrusted: every index below is checked against `end`.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT(name) __attribute__((export_name(name)))

enum {
    KEY_BYTES_MAX = 255,
    VALUE_BYTES_MAX = 1 << 20,
    HEAD_BYTES_MAX = 64 << 10, /* request line and headers */
    REQUEST_BYTES_MAX = HEAD_BYTES_MAX + VALUE_BYTES_MAX,
    RESPONSE_HEAD_BYTES_MAX = 256,
    BUCKETS_FIRST = 64,
};

/* ---- bytes ---- */

struct slice {
    const uint8_t *at;
    size_t len;
};

#define TEXT(literal) ((struct slice){(const uint8_t *)(literal), sizeof(literal) - 1})

static bool equal(struct slice a, struct slice b) { return a.len == b.len && memcmp(a.at, b.at, a.len) == 0; }

static bool starts_with(struct slice text, struct slice prefix) {
    return text.len >= prefix.len && memcmp(text.at, prefix.at, prefix.len) == 0;
}

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

static bool equal_ignoring_case(struct slice a, struct slice b) {
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++)
        if (lower(a.at[i]) != lower(b.at[i])) return false;
    return true;
}

/* The index of `byte` in `text`, or its length. */
static size_t find(struct slice text, uint8_t byte) {
    const uint8_t *hit = text.len ? memchr(text.at, byte, text.len) : NULL;
    return hit ? (size_t)(hit - text.at) : text.len;
}

static struct slice sub(struct slice text, size_t from, size_t to) {
    if (to > text.len) to = text.len;
    if (from > to) from = to;
    return (struct slice){text.at + from, to - from};
}

static struct slice trim(struct slice text) {
    while (text.len && (text.at[0] == ' ' || text.at[0] == '\t')) text = sub(text, 1, text.len);
    while (text.len && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t')) text.len--;
    return text;
}

/* Writes `value` in decimal, returns the number of digits (at most 20). */
static size_t decimal(uint64_t value, uint8_t *out) {
    uint8_t digits[20];
    size_t n = 0;
    do digits[n++] = '0' + value % 10;
    while (value /= 10);
    for (size_t i = 0; i < n; i++) out[i] = digits[n - 1 - i];
    return n;
}

/* ---- the store: a chained hash table, and the counter ---- */

struct entry {
    struct entry *next;
    uint64_t hash;
    uint8_t *value; /* NULL if the value is empty */
    uint32_t value_len;
    uint32_t key_len;
    uint8_t key[];
};

static struct entry **buckets;
static size_t bucket_count; /* a power of two, or 0 before the first put */
static size_t entry_count;
static uint64_t counter;
static uint64_t hash_seed; /* so that nobody can choose keys that collide */

static uint64_t fnv(uint64_t hash, const void *bytes, size_t len) {
    const uint8_t *at = bytes;
    for (size_t i = 0; i < len; i++) hash = (hash ^ at[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t key_hash(struct slice key) {
    uint64_t hash = fnv(hash_seed, key.at, key.len);
    return (hash ^ (hash >> 29)) * 0x9e3779b97f4a7c15u;
}

/* Where the pointer to the key's entry is, or where it would be put. Needs bucket_count > 0. */
static struct entry **locate(struct slice key, uint64_t hash) {
    struct entry **at = &buckets[(hash >> 20) & (bucket_count - 1)];
    while (*at && !((*at)->hash == hash && equal((struct slice){(*at)->key, (*at)->key_len}, key))) at = &(*at)->next;
    return at;
}

static struct entry *get(struct slice key) { return bucket_count ? *locate(key, key_hash(key)) : NULL; }

/* Doubles the table once it is full; if there is no memory for that, chains simply grow longer. */
static bool make_room(void) {
    if (entry_count < bucket_count) return true;
    size_t count = bucket_count ? bucket_count * 2 : BUCKETS_FIRST;
    struct entry **table = calloc(count, sizeof *table);
    if (!table) return bucket_count > 0;
    for (size_t i = 0; i < bucket_count; i++) {
        for (struct entry *e = buckets[i], *next; e; e = next) {
            struct entry **head = &table[(e->hash >> 20) & (count - 1)];
            next = e->next;
            e->next = *head;
            *head = e;
        }
    }
    free(buckets);
    buckets = table;
    bucket_count = count;
    return true;
}

enum put { PUT_NO_MEMORY, PUT_CREATED, PUT_REPLACED };

/* Changes nothing unless it succeeds. */
static enum put put(struct slice key, struct slice value) {
    uint8_t *copy = NULL;
    if (value.len) {
        copy = malloc(value.len);
        if (!copy) return PUT_NO_MEMORY;
        memcpy(copy, value.at, value.len);
    }
    struct entry *entry = get(key);
    enum put result = PUT_REPLACED;
    if (!entry) {
        entry = make_room() ? calloc(1, sizeof *entry + key.len) : NULL;
        if (!entry) {
            free(copy);
            return PUT_NO_MEMORY;
        }
        entry->hash = key_hash(key);
        entry->key_len = key.len;
        memcpy(entry->key, key.at, key.len);
        *locate(key, entry->hash) = entry;
        entry_count++;
        result = PUT_CREATED;
    }
    free(entry->value);
    entry->value = copy;
    entry->value_len = value.len;
    return result;
}

static bool erase(struct slice key) {
    struct entry **at = bucket_count ? locate(key, key_hash(key)) : NULL;
    if (!at || !*at) return false;
    struct entry *entry = *at;
    *at = entry->next;
    free(entry->value);
    free(entry);
    entry_count--;
    return true;
}

static int by_key(const void *left, const void *right) {
    const struct entry *a = *(struct entry *const *)left, *b = *(struct entry *const *)right;
    size_t common = a->key_len < b->key_len ? a->key_len : b->key_len;
    int order = memcmp(a->key, b->key, common);
    return order ? order : (a->key_len > b->key_len) - (a->key_len < b->key_len);
}

/* FNV-1a of counter, then length and bytes of each key and value in key order: the same for the same contents,
 * whatever the order of requests that led there. False if there is no memory to sort in. */
static bool digest(uint64_t *hash) {
    struct entry **sorted = malloc((entry_count + 1) * sizeof *sorted);
    if (!sorted) return false;
    size_t n = 0;
    for (size_t i = 0; i < bucket_count; i++)
        for (struct entry *e = buckets[i]; e; e = e->next) sorted[n++] = e;
    qsort(sorted, n, sizeof *sorted, by_key);
    *hash = fnv(0xcbf29ce484222325u, &counter, sizeof counter);
    for (size_t i = 0; i < n; i++) {
        *hash = fnv(*hash, &sorted[i]->key_len, sizeof sorted[i]->key_len);
        *hash = fnv(*hash, sorted[i]->key, sorted[i]->key_len);
        *hash = fnv(*hash, &sorted[i]->value_len, sizeof sorted[i]->value_len);
        *hash = fnv(*hash, sorted[i]->value, sorted[i]->value_len);
    }
    free(sorted);
    return true;
}

/* ---- responses ---- */

static uint8_t *request_buffer, *response_buffer;
static size_t request_capacity, response_capacity;

/* Makes `*buffer` at least `len` bytes long; what was in it is lost. */
static bool reserve(uint8_t **buffer, size_t *capacity, size_t len) {
    if (len <= *capacity) return true;
    uint8_t *larger = malloc(len);
    if (!larger) return false;
    free(*buffer);
    *buffer = larger;
    *capacity = len;
    return true;
}

static uint64_t packed(const void *at, size_t len) { return (uint64_t)(uintptr_t)at << 32 | len; }

/* `status` is code, reason and any further header lines. */
static uint64_t respond(struct slice status, struct slice type, struct slice body) {
    if (!reserve(&response_buffer, &response_capacity, RESPONSE_HEAD_BYTES_MAX + body.len)) {
        struct slice full = TEXT("HTTP/1.1 507 Insufficient Storage\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n");
        return packed(full.at, full.len);
    }
    uint8_t *out = response_buffer, digits[20];
    struct slice length = {digits, decimal(body.len, digits)};
    struct slice parts[] = {TEXT("HTTP/1.1 "), status, TEXT("\r\nContent-Type: "), type,
                            TEXT("\r\nContent-Length: "), length, TEXT("\r\n\r\n"), body};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].len) memcpy(out, parts[i].at, parts[i].len);
        out += parts[i].len;
    }
    return packed(response_buffer, out - response_buffer);
}

#define SAY(status, body) respond(TEXT(status), TEXT("text/plain"), TEXT(body))
#define BAD(why) SAY("400 Bad Request", why "\n")
#define FULL() SAY("507 Insufficient Storage", "out of memory; nothing was changed\n")

/* ---- requests ---- */

struct request {
    struct slice method, path, body;
};

static bool content_length(struct slice text, size_t *length) {
    *length = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.at[i] < '0' || text.at[i] > '9' || *length > REQUEST_BYTES_MAX) return false;
        *length = *length * 10 + (text.at[i] - '0');
    }
    return text.len > 0;
}

/* Splits an HTTP/1.1 message. NULL, or what is wrong with it. */
static const char *parse(struct slice message, struct request *request) {
    size_t line_end = find(message, '\n');
    if (line_end == message.len || line_end < 1 || message.at[line_end - 1] != '\r') return "no request line";
    struct slice line = sub(message, 0, line_end - 1), rest = sub(message, line_end + 1, message.len);
    size_t first = find(line, ' ');
    request->method = sub(line, 0, first);
    line = sub(line, first + 1, line.len);
    size_t second = find(line, ' ');
    request->path = sub(line, 0, find(sub(line, 0, second), '?'));
    if (!equal(sub(line, second, line.len), TEXT(" HTTP/1.1"))) return "not an HTTP/1.1 request line";

    bool has_length = false;
    size_t length = 0;
    for (;;) {
        line_end = find(rest, '\n');
        if (line_end == rest.len || line_end < 1 || rest.at[line_end - 1] != '\r') return "headers without an end";
        line = sub(rest, 0, line_end - 1);
        rest = sub(rest, line_end + 1, rest.len);
        if (line.len == 0) break;
        size_t colon = find(line, ':');
        if (colon == 0 || colon == line.len) return "a header line without a name";
        struct slice name = sub(line, 0, colon), value = trim(sub(line, colon + 1, line.len));
        if (equal_ignoring_case(name, TEXT("Transfer-Encoding"))) return "Transfer-Encoding is not supported";
        if (equal_ignoring_case(name, TEXT("Content-Length"))) {
            if (has_length || !content_length(value, &length)) return "a bad Content-Length";
            has_length = true;
        }
    }
    if (length != rest.len) return "the body is not as long as Content-Length says";
    request->body = rest;
    return NULL;
}

static int hex(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes the key into `out` (KEY_BYTES_MAX bytes). NULL, or what is wrong with it. */
static const char *decode_key(struct slice text, uint8_t *out, struct slice *key) {
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.at[i];
        if (c == '/') return "a slash in the key: write %2F";
        if (c == '%') {
            int high = i + 2 < text.len ? hex(text.at[i + 1]) : -1, low = i + 2 < text.len ? hex(text.at[i + 2]) : -1;
            if (high < 0 || low < 0) return "a bad percent escape in the key";
            c = high << 4 | low;
            i += 2;
        }
        if (n == KEY_BYTES_MAX) return "a key longer than 255 bytes";
        out[n++] = c;
    }
    if (n == 0) return "an empty key";
    *key = (struct slice){out, n};
    return NULL;
}

static uint64_t bad(const char *why) {
    return respond(TEXT("400 Bad Request"), TEXT("text/plain"), (struct slice){(const uint8_t *)why, strlen(why)});
}

static uint64_t handle_key(const struct request *request) {
    uint8_t decoded[KEY_BYTES_MAX];
    struct slice key;
    const char *wrong = decode_key(sub(request->path, 3, request->path.len), decoded, &key);
    if (wrong) return bad(wrong);
    if (equal(request->method, TEXT("GET"))) {
        struct entry *entry = get(key);
        if (!entry) return SAY("404 Not Found", "no such key\n");
        return respond(TEXT("200 OK"), TEXT("application/octet-stream"), (struct slice){entry->value, entry->value_len});
    }
    if (equal(request->method, TEXT("PUT"))) {
        if (request->body.len > VALUE_BYTES_MAX) return SAY("413 Content Too Large", "a value longer than 1 MiB\n");
        switch (put(key, request->body)) {
        case PUT_CREATED: return SAY("201 Created", "created\n");
        case PUT_REPLACED: return SAY("200 OK", "replaced\n");
        case PUT_NO_MEMORY: return FULL();
        }
    }
    if (equal(request->method, TEXT("DELETE")))
        return erase(key) ? SAY("200 OK", "deleted\n") : SAY("404 Not Found", "no such key\n");
    return SAY("405 Method Not Allowed\r\nAllow: GET, PUT, DELETE", "use GET, PUT or DELETE\n");
}

static uint64_t handle_count(const struct request *request) {
    bool post = equal(request->method, TEXT("POST"));
    if (!post && !equal(request->method, TEXT("GET")))
        return SAY("405 Method Not Allowed\r\nAllow: GET, POST", "use GET or POST\n");
    /* Room first: a count that cannot be answered must not be counted. */
    if (!reserve(&response_buffer, &response_capacity, RESPONSE_HEAD_BYTES_MAX + 20)) return FULL();
    counter += post;
    uint8_t digits[20];
    return respond(TEXT("200 OK"), TEXT("text/plain"), (struct slice){digits, decimal(counter, digits)});
}

static uint64_t handle_digest(const struct request *request) {
    uint64_t hash;
    uint8_t text[16];
    if (!equal(request->method, TEXT("GET"))) return SAY("405 Method Not Allowed\r\nAllow: GET", "use GET\n");
    if (!digest(&hash)) return FULL();
    for (int i = 0; i < 16; i++) text[i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
    return respond(TEXT("200 OK"), TEXT("text/plain"), (struct slice){text, sizeof text});
}

/* ---- another version of this code ---- */

/* magic | counter | count | key length, value length, key, value of each; numbers little endian, as this machine's are. */
static const char magic[8] = "kv save1";
static uint8_t *saved;
static size_t saved_capacity;

static void append(uint8_t **out, const void *bytes, size_t len) {
    if (len) memcpy(*out, bytes, len);
    *out += len;
}

/* False if so many bytes are not left. */
static bool take(struct slice *in, void *out, size_t len) {
    if (in->len < len) return false;
    memcpy(out, in->at, len);
    *in = sub(*in, len, in->len);
    return true;
}

static uint64_t save_all(void) {
    uint64_t count = entry_count;
    size_t len = sizeof magic + sizeof counter + sizeof count;
    for (size_t i = 0; i < bucket_count; i++)
        for (struct entry *e = buckets[i]; e; e = e->next) len += 8 + e->key_len + e->value_len;
    if (!reserve(&saved, &saved_capacity, len)) return 0;
    uint8_t *out = saved;
    append(&out, magic, sizeof magic);
    append(&out, &counter, sizeof counter);
    append(&out, &count, sizeof count);
    for (size_t i = 0; i < bucket_count; i++) {
        for (struct entry *e = buckets[i]; e; e = e->next) {
            append(&out, &e->key_len, 4);
            append(&out, &e->value_len, 4);
            append(&out, e->key, e->key_len);
            append(&out, e->value, e->value_len);
        }
    }
    return packed(saved, len);
}

/* 0, or which part of what was saved is not as it should be. */
static int32_t load_all(struct slice in) {
    char found[sizeof magic];
    uint64_t count;
    if (!take(&in, found, sizeof found) || memcmp(found, magic, sizeof magic) != 0) return 1;
    if (!take(&in, &counter, sizeof counter) || !take(&in, &count, sizeof count)) return 2;
    while (count--) {
        uint32_t key_len, value_len;
        if (!take(&in, &key_len, 4) || !take(&in, &value_len, 4)) return 3;
        if (key_len == 0 || key_len > KEY_BYTES_MAX || value_len > VALUE_BYTES_MAX) return 4;
        struct slice key = sub(in, 0, key_len), value = sub(in, key_len, (size_t)key_len + value_len);
        if (key.len != key_len || value.len != value_len) return 5;
        if (put(key, value) != PUT_CREATED) return 6;
        in = sub(in, (size_t)key_len + value_len, in.len);
    }
    return in.len ? 7 : 0;
}

/* ---- the ABI ---- */

/* Runs once in the service's life, at its first start and never after a move. */
__attribute__((constructor)) static void start(void) {
    getentropy(&hash_seed, sizeof hash_seed);
    static const char ready[] = "kv: ready\n";
    write(STDERR_FILENO, ready, sizeof ready - 1);
}

EXPORT("wayfare_buffer") uint8_t *buffer(uint32_t len) {
    /* What another version saved may be longer than a request. */
    if (!reserve(&request_buffer, &request_capacity, len ? len : 1)) return NULL;
    return request_buffer;
}

EXPORT("wayfare_handle") uint64_t handle(uint32_t len) {
    struct request request;
    if (len > request_capacity) return BAD("more than wayfare_buffer gave room for");
    const char *wrong = parse((struct slice){request_buffer, len}, &request);
    if (wrong) return bad(wrong);
    if (starts_with(request.path, TEXT("/k/"))) return handle_key(&request);
    if (equal(request.path, TEXT("/count"))) return handle_count(&request);
    if (equal(request.path, TEXT("/digest"))) return handle_digest(&request);
    if (equal(request.path, TEXT("/version"))) return SAY("200 OK", "kv version 1\n");
    return SAY("404 Not Found", "there are /k/<key>, /count, /digest and /version\n");
}

EXPORT("wayfare_save") uint64_t save(void) { return save_all(); }

EXPORT("wayfare_load") int32_t load(uint32_t len) {
    int32_t result = len > request_capacity ? 1 : load_all((struct slice){request_buffer, len});
    free(request_buffer);
    request_buffer = NULL;
    request_capacity = 0;
    return result;
}
