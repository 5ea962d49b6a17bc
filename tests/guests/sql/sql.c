/* SQLite as a service: one database in memory, and one connection to it, which move with everything that is open.
 *
 *   POST /sql   runs the body: SQL in UTF-8, one or more statements, one after the other
 *
 * 200: {"columns":[…],"rows":[[…],…],"changes":N,"last_insert_rowid":N,"in_transaction":false}, where columns and rows are of the
 * last statement that returns rows, and `changes` counts rows that this request inserted, updated or deleted. Integers are exact, to 64
 * bits; a real number has a point or an exponent; an infinity is 9e999; a blob is {"base64":"…"}.
 * 400, or 507 if there is no memory: {"error":"…","statement":K,"in_transaction":…}. Statement K (from 1) had no effect, those before
 * it had, as in any SQLite shell; BEGIN and COMMIT around them make them one. A database that has no memory left to grow can still be
 * deleted from.
 *
 * A transaction stays open between requests until COMMIT or ROLLBACK, whoever sends those: there is one connection for all. A client
 * that is not alone puts BEGIN and COMMIT into one request. Foreign keys are enforced; there is no ATTACH.
 *
 * `:memory:` keeps pages, rollback journal, temporary tables and the prepared state on the heap, so that a move takes an open
 * transaction along as it is; what a crash of the host must not lose is in the host's log. A file of a VFS in memory would be a
 * second copy of every page that is in the cache. */
#include "wayfare.h"

#include "sqlite3.h"

enum { RESERVE_BYTES = 1 << 20 };

static const char usage[] =
    "SQLite. POST /sql runs SQL:\n\n"
    "  curl --data-binary 'CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 2.5)' .../sql\n"
    "  curl --data-binary 'SELECT * FROM t' .../sql\n";

static sqlite3 *database;
static void *reserve;        /* memory for the time when there is no more */
static unsigned char *saved; /* what `wayfare_save` gave, until the next call */

/* ---- the JSON of a value ---- */

/* Bytes that `wf_put_json` would write at most, for a text that is UTF-8. */
static size_t json_bytes(wf_text text) {
    size_t bytes = 2;
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = (uint8_t)text.at[i];
        bytes += c < ' ' || c == 0x7f ? 6 : c == '"' || c == '\\' ? 2 : wf_utf8_len(text, i) || (c & 0xc0) == 0x80 ? 1 : 3;
    }
    return bytes;
}

static void put_base64(wf_response *response, const uint8_t *at, size_t len) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t bits = (uint32_t)at[i] << 16 | (left > 1 ? at[i + 1] << 8 : 0) | (left > 2 ? at[i + 2] : 0);
        char four[4] = {letters[bits >> 18], letters[bits >> 12 & 63], left > 1 ? letters[bits >> 6 & 63] : '=',
                        left > 2 ? letters[bits & 63] : '='};
        wf_put(response, (wf_text){four, 4});
    }
}

/* False if there is no room for it. */
static bool put_value(wf_response *response, sqlite3_stmt *statement, int column) {
    enum { SMALL = 64, TAIL = 256 }; /* a number; what comes behind the rows */
    char text[SMALL];
    size_t room = wf_room(response) > TAIL ? wf_room(response) - TAIL : 0;
    if (room < SMALL) return false;
    switch (sqlite3_column_type(statement, column)) {
    case SQLITE_NULL: wf_puts(response, "null"); return true;
    case SQLITE_INTEGER: wf_put_int(response, sqlite3_column_int64(statement, column)); return true;
    case SQLITE_FLOAT: {
        double value = sqlite3_column_double(statement, column);
        bool infinite = value > 1.7976931348623157e308 || value < -1.7976931348623157e308;
        sqlite3_snprintf(SMALL, text, infinite ? (value < 0 ? "-9e999" : "9e999") : "%!.17g", value);
        wf_puts(response, text);
        return true;
    }
    case SQLITE_BLOB: {
        const uint8_t *at = sqlite3_column_blob(statement, column);
        size_t len = (size_t)sqlite3_column_bytes(statement, column);
        if ((len + 2) / 3 * 4 + SMALL > room) return false;
        wf_puts(response, "{\"base64\":\"");
        put_base64(response, at, len);
        wf_puts(response, "\"}");
        return true;
    }
    default: {
        const char *at = (const char *)sqlite3_column_text(statement, column);
        if (!at) wf_fail("there is no memory for a text");
        wf_text value = {at, (size_t)sqlite3_column_bytes(statement, column)};
        if (json_bytes(value) + SMALL > room) return false;
        wf_put_json(response, value);
        return true;
    }
    }
}

/* ---- running SQL ---- */

static const char too_long[] = "the result is longer than 2 MiB: add LIMIT (what the statement changed is changed)";

/* Runs one statement to its end. The response is its rows, if it returns any. What is wrong with it, or NULL. */
static const char *run(sqlite3_stmt *statement, wf_response *response) {
    int columns = sqlite3_column_count(statement), code;
    if (columns == 0) return sqlite3_step(statement) == SQLITE_DONE ? NULL : sqlite3_errmsg(database);
    response->body_len = 0;
    wf_puts(response, "{\"columns\":[");
    for (int i = 0; i < columns; i++) {
        const char *name = sqlite3_column_name(statement, i);
        if (!name) wf_fail("there is no memory for a column's name");
        if (i) wf_puts(response, ",");
        wf_put_json(response, wf_text_of(name));
    }
    wf_puts(response, "],\"rows\":[");
    for (bool first = true; (code = sqlite3_step(statement)) == SQLITE_ROW; first = false) {
        wf_puts(response, first ? "[" : ",[");
        for (int i = 0; i < columns; i++) {
            if (i) wf_puts(response, ",");
            if (!put_value(response, statement, i)) return too_long;
        }
        wf_puts(response, "]");
    }
    wf_puts(response, "]");
    return code == SQLITE_DONE ? NULL : sqlite3_errmsg(database);
}

static void put_transaction(wf_response *response) {
    wf_puts(response, sqlite3_get_autocommit(database) ? ",\"in_transaction\":false}\n" : ",\"in_transaction\":true}\n");
}

/* Whether the database itself takes most of a memory that could not grow, and not just what a greedy statement wanted. */
static bool is_crowded(void) {
    uint64_t bytes = (uint64_t)__builtin_wasm_memory_size(0) << 16;
    return (uint64_t)sqlite3_memory_used() > bytes / 4 * 3;
}

/* A database that fills the last byte could not even be deleted from. So when memory runs out, it keeps to the pages that it has, and the
 * reserve is there for journals and temporary tables. */
static void stop_growing(void) {
    free(reserve);
    reserve = NULL;
    sqlite3_exec(database, "PRAGMA max_page_count = 1", NULL, NULL, NULL); /* raised to the pages that there are */
}

static void grow_again(void) {
    reserve = malloc(RESERVE_BYTES);
    if (reserve) sqlite3_exec(database, "PRAGMA max_page_count = 4294967294", NULL, NULL, NULL);
}

static void refuse(wf_response *response, const char *why, uint64_t statement, int code) {
    response->status = code == SQLITE_NOMEM || code == SQLITE_FULL ? 507 : 400;
    response->body_len = 0;
    wf_puts(response, "{\"error\":");
    wf_put_json(response, wf_text_of(why));
    wf_puts(response, ",\"statement\":");
    wf_put_uint(response, statement);
    put_transaction(response);
}

/* `sql` ends with a zero. */
static void run_all(const char *sql, wf_response *response) {
    sqlite3_int64 before = sqlite3_total_changes64(database);
    wf_puts(response, "{\"columns\":[],\"rows\":[]");
    for (uint64_t count = 1;; count++) {
        sqlite3_stmt *statement = NULL;
        const char *wrong = sqlite3_prepare_v2(database, sql, -1, &statement, &sql) == SQLITE_OK ? NULL : sqlite3_errmsg(database);
        if (!wrong && !statement) {
            if (*sql == 0) break;
            count--; /* an empty statement, or a comment */
            continue;
        }
        if (!wrong) wrong = run(statement, response);
        if (wrong) {
            int code = wrong == too_long ? SQLITE_TOOBIG : sqlite3_errcode(database);
            refuse(response, wrong, count, code);
            sqlite3_finalize(statement);
            if (code == SQLITE_NOMEM && reserve && is_crowded()) stop_growing();
            return;
        }
        sqlite3_finalize(statement);
    }
    wf_puts(response, ",\"changes\":");
    wf_put_int(response, sqlite3_total_changes64(database) - before);
    wf_puts(response, ",\"last_insert_rowid\":");
    wf_put_int(response, sqlite3_last_insert_rowid(database));
    put_transaction(response);
}

static void say_error(wf_response *response, int status, const char *json) {
    response->status = status;
    wf_puts(response, json);
}

void service(const wf_request *request, wf_response *response) {
    sqlite3_free(saved);
    saved = NULL;
    if (!reserve && !is_crowded()) grow_again();
    if (wf_is(request->path, "/") && wf_is(request->method, "GET")) {
        wf_puts(response, usage);
        return;
    }
    wf_type(response, "application/json");
    if (!wf_is(request->path, "/sql")) return say_error(response, 404, "{\"error\":\"there is only /sql\"}\n");
    if (!wf_is(request->method, "POST")) {
        wf_add_header(response, "Allow", WF_TEXT("POST"));
        return say_error(response, 405, "{\"error\":\"use POST\"}\n");
    }
    wf_text body = request->body;
    if (wf_find(body, 0) < body.len || !wf_is_utf8(body))
        return say_error(response, 400, "{\"error\":\"the SQL is not UTF-8, or has a zero byte in it\"}\n");
    char *sql = malloc(body.len + 1);
    if (!sql) return say_error(response, 507, "{\"error\":\"out of memory; nothing was changed\"}\n");
    if (body.len) memcpy(sql, body.at, body.len);
    sql[body.len] = 0;
    run_all(sql, response);
    free(sql);
}

/* ---- the database, and its state for another version of this service ---- */

/* VACUUM attaches a temporary database, whose name is empty. Others would not be part of what is saved. */
static int authorize(void *unused, int action, const char *name, const char *b, const char *c, const char *d) {
    (void)unused, (void)b, (void)c, (void)d;
    return action == SQLITE_ATTACH && (!name || *name) ? SQLITE_DENY : SQLITE_OK;
}

/* Runs once in the service's life, at its first start and never after a move. */
__attribute__((constructor)) static void start(void) {
    /* Writing a setting makes the first page, so that even an empty database can be saved. */
    if (sqlite3_open(":memory:", &database) != SQLITE_OK ||
        sqlite3_exec(database, "PRAGMA user_version = 0", NULL, NULL, NULL) != SQLITE_OK)
        wf_fail("the database cannot be opened");
    grow_again();
    sqlite3_set_authorizer(database, authorize, NULL);
}

/* The committed database as a file of SQLite's format. A transaction that is open cannot be saved, nor can temporary tables. */
WF_EXPORT("wayfare_save") uint64_t save(void) {
    sqlite3_int64 size = 0;
    sqlite3_free(saved);
    saved = NULL;
    if (!sqlite3_get_autocommit(database)) {
        static const char why[] = "sql: a transaction is open, so the state cannot be saved: COMMIT or ROLLBACK first\n";
        (void)!write(STDERR_FILENO, why, sizeof why - 1);
        return 0;
    }
    saved = sqlite3_serialize(database, "main", &size, 0);
    return saved && size <= UINT32_MAX ? wf_packed(saved, (size_t)size) : 0;
}

static int first_column_is_ok(void *unused, int columns, char **values, char **names) {
    (void)unused, (void)names;
    return columns == 1 && values[0] && strcmp(values[0], "ok") == 0 ? 0 : 1;
}

/* Takes over a file of SQLite's format, if it is whole. */
WF_EXPORT("wayfare_load") int32_t load(uint32_t len) {
    sqlite3 *from = NULL;
    wf_text file = wf_given(len);
    /* In whole pages: what a cut page lacks would count as zeros. */
    bool taken = file.len > 0 && file.len % 512 == 0 && sqlite3_open(":memory:", &from) == SQLITE_OK &&
                 sqlite3_deserialize(from, "main", (unsigned char *)file.at, len, len, SQLITE_DESERIALIZE_READONLY) == SQLITE_OK &&
                 sqlite3_exec(from, "PRAGMA integrity_check(1)", first_column_is_ok, NULL, NULL) == SQLITE_OK;
    sqlite3_backup *backup = taken ? sqlite3_backup_init(database, "main", from, "main") : NULL;
    taken = backup && sqlite3_backup_step(backup, -1) == SQLITE_DONE;
    taken = sqlite3_backup_finish(backup) == SQLITE_OK && taken;
    sqlite3_close(from);
    return taken ? 0 : 1;
}
