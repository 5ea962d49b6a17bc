/* What SQLite asks of an operating system when its databases are in memory: time, randomness, and no files. Both come through WASI,
 * so the host logs them with the request and a restarted host gives them again. */
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sqlite3.h"

static int open_file(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
    (void)vfs, (void)name, (void)flags, (void)out;
    file->pMethods = NULL;
    return SQLITE_CANTOPEN;
}

static int delete_file(sqlite3_vfs *vfs, const char *name, int sync) {
    (void)vfs, (void)name, (void)sync;
    return SQLITE_OK;
}

static int access_file(sqlite3_vfs *vfs, const char *name, int flags, int *out) {
    (void)vfs, (void)name, (void)flags;
    *out = 0;
    return SQLITE_OK;
}

static int full_path(sqlite3_vfs *vfs, const char *name, int room, char *out) {
    (void)vfs;
    return strlen(name) < (size_t)room ? (strcpy(out, name), SQLITE_OK) : SQLITE_CANTOPEN;
}

static int randomness(sqlite3_vfs *vfs, int len, char *out) {
    (void)vfs;
    enum { AT_A_TIME = 256 }; /* as getentropy demands */
    for (int at = 0; at < len; at += AT_A_TIME)
        if (getentropy(out + at, len - at < AT_A_TIME ? (size_t)(len - at) : AT_A_TIME)) return at;
    return len;
}

/* Requests have no time to sleep: nobody else could do anything meanwhile. */
static int do_not_sleep(sqlite3_vfs *vfs, int microseconds) {
    (void)vfs;
    return microseconds;
}

/* Milliseconds of the Julian day. */
static int current_time_ms(sqlite3_vfs *vfs, sqlite3_int64 *out) {
    (void)vfs;
    static const sqlite3_int64 unix_epoch_ms = 24405875 * (sqlite3_int64)8640000;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return SQLITE_ERROR;
    *out = unix_epoch_ms + (sqlite3_int64)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    return SQLITE_OK;
}

static int current_time_days(sqlite3_vfs *vfs, double *out) {
    sqlite3_int64 ms = 0;
    int code = current_time_ms(vfs, &ms);
    *out = (double)ms / 86400000.0;
    return code;
}

static int last_error(sqlite3_vfs *vfs, int room, char *out) {
    (void)vfs, (void)room, (void)out;
    return 0;
}

int sqlite3_os_init(void) {
    static sqlite3_vfs vfs = {
        .iVersion = 2,
        .szOsFile = sizeof(sqlite3_file),
        .mxPathname = 255,
        .zName = "none",
        .xOpen = open_file,
        .xDelete = delete_file,
        .xAccess = access_file,
        .xFullPathname = full_path,
        .xRandomness = randomness,
        .xSleep = do_not_sleep,
        .xCurrentTime = current_time_days,
        .xCurrentTimeInt64 = current_time_ms,
        .xGetLastError = last_error,
    };
    return sqlite3_vfs_register(&vfs, 1);
}

int sqlite3_os_end(void) { return SQLITE_OK; }
