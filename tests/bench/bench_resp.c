/* bench_resp.c - what framing costs: CPU nanoseconds per request and per reply, whole in the buffer and cut.
 *
 *   one 16 KiB buffer of pipelined copies of a sample --many rounds--> ns a piece, best of 5
 *
 * By hand: cc -O2 -std=c99 -D_POSIX_C_SOURCE=200809L -I. -o /tmp/bench_resp tests/bench/bench_resp.c resp.c text.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "resp.h"

#define BUFFER 16384
#define PIECES 2000000UL

#define TEN "0123456789"
#define BYTES64 TEN TEN TEN TEN TEN TEN "0123"

static const struct resp_limits limits = {1024 * 1024, 512U << 20, 65536, NULL};

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Frames the whole buffer in pieces of `cut` bytes; gives the number of values that ended. */
static unsigned long frame(const unsigned char *p, size_t n, size_t cut, int replies)
{
    struct resp_request request;
    struct resp_reply reply;
    unsigned long whole = 0;
    size_t i = 0;

    resp_request_start(&request);
    resp_reply_start(&reply);
    while (i < n) {
        size_t piece = cut - i % cut < n - i ? cut - i % cut : n - i;
        enum resp_status status;

        i += replies ? resp_reply(&reply, p + i, piece, &status)
                     : resp_request(&request, p + i, piece, &limits, &status);
        if (status == RESP_BAD)
            abort();
        if (status == RESP_WHOLE) {
            whole++;
            if (replies)
                resp_reply_start(&reply);
            else
                resp_request_start(&request);
        }
    }
    return whole;
}

static unsigned long walk(const unsigned char *p, size_t len)
{
    struct resp_slice arg;
    unsigned long count = 0;
    uint32_t at = 0;

    while (resp_arg(p, len, &at, &arg))
        count += arg.len > 0;
    return count;
}

static void bench(const char *name, const char *sample, size_t len, size_t cut, int replies)
{
    static unsigned char buffer[BUFFER];
    size_t n = 0;
    double best = 1e18;
    int round;

    for (; n + len <= sizeof buffer; n += len)
        memcpy(buffer + n, sample, len);
    for (round = 0; round < 5; round++) {
        unsigned long done = 0;
        double start = now_ns(), each;

        while (done < PIECES / 5)
            done += cut == 0 ? walk(buffer, len) : frame(buffer, n, cut, replies);
        each = (now_ns() - start) / (double)done;
        best = each < best ? each : best;
    }
    printf("%-44s %7.1f ns\n", name, best);
}

#define REQUEST(name, text) bench("request " name, text, sizeof text - 1, BUFFER, 0)
#define REPLY(name, text) bench("reply   " name, text, sizeof text - 1, BUFFER, 1)

#define GET "*2\r\n$3\r\nGET\r\n$8\r\nkey:0001\r\n"
#define SET "*3\r\n$3\r\nSET\r\n$8\r\nkey:0001\r\n$64\r\n" BYTES64 "\r\n"
#define KEY "$8\r\nkey:0001\r\n"
#define MGET "*11\r\n$4\r\nMGET\r\n" KEY KEY KEY KEY KEY KEY KEY KEY KEY KEY

int main(void)
{
    REQUEST("GET", GET);
    REQUEST("SET of 64 bytes", SET);
    REQUEST("MGET of 10 keys", MGET);
    REQUEST("PING inline", "PING\r\n");
    bench("request SET of 64 bytes, cut every 100 bytes", SET, sizeof SET - 1, 100, 0);
    bench("request SET of 64 bytes, byte by byte", SET, sizeof SET - 1, 1, 0);
    bench("argument of MGET, walked", MGET, sizeof MGET - 1, 0, 0);
    REPLY("$64", "$64\r\n" BYTES64 "\r\n");
    REPLY("+OK", "+OK\r\n");
    REPLY(":1", ":1\r\n");
    REPLY("$-1", "$-1\r\n");
    REPLY("-MOVED", "-MOVED 3999 127.0.0.1:6381\r\n");
    REPLY("*10 of $8", "*10\r\n" KEY KEY KEY KEY KEY KEY KEY KEY KEY KEY);
    bench("reply   $64, byte by byte", "$64\r\n" BYTES64 "\r\n", 71, 1, 1);
    return 0;
}
