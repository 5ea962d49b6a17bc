// The smallest service that moves: it answers every request with the number of requests so far, and has one page of memory.
// `wayfare-sim bench handshake` moves it, so that the handshake is timed and not the state.

#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))

static uint8_t request[1024];
static uint32_t calls;
static char response[] = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0000000000";

// A longer request is cut: nothing of it is read anyway.
EXPORT("wayfare_buffer") uint8_t *wayfare_buffer(int32_t len) {
    return len <= (int32_t)sizeof request ? request : 0;
}

EXPORT("wayfare_handle") uint64_t wayfare_handle(int32_t len) {
    (void)len;
    uint32_t rest = ++calls;
    for (char *digit = response + sizeof response - 2; rest != 0; rest /= 10) {
        *digit-- = (char)('0' + rest % 10);
    }
    return (uint64_t)(uintptr_t)response << 32 | (sizeof response - 1);
}
