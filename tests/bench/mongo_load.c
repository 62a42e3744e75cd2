/* mongo_load.c - a server that answers every find with the same document, and clients that ask for it: what lies between is measured.
 *
 *   mongo_load serve PORT                    a mongos that says hello and answers; until it is ended
 *   mongo_load ask PORT CLIENTS SECONDS      each client one question at a time; prints how many answers came
 *
 * One process each, one poll loop. Built and used by tests/bench/mongo_peers.py.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "mongomsg.h"
#include "mongowire.h"

#define CONNECTIONS 2048
#define DOCUMENT_BYTES 200

static struct side { struct wire wire; size_t got; } sides[CONNECTIONS];
static struct pollfd polls[CONNECTIONS];
static int count;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void add(int fd)
{
    int one = 1;
    if (count == CONNECTIONS)
        exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    polls[count] = (struct pollfd){ fd, POLLIN, 0 };
    wire_start(&sides[count].wire, false);
    count++;
}

static struct sockaddr_in at(int port)
{
    struct sockaddr_in a = { 0 };
    a.sin_family = AF_INET;
    a.sin_port = htons((unsigned short)port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static void put(int fd, const void *p, size_t n)
{
    if (send(fd, p, n, MSG_NOSIGNAL) != (ssize_t)n)
        die("send");
}

/* ------------------------------------------------------------ the server */

static size_t answer(const struct wire *w, unsigned char *out, size_t cap)
{
    static const char filler[DOCUMENT_BYTES];
    struct bson b;

    mongomsg_begin_answer(&b, out, cap, &w->header, 1);
    if (w->hello) {
        bson_bool(&b, "isWritablePrimary", true);
        bson_string(&b, "msg", "isdbgrid");
        bson_int32(&b, "maxWireVersion", 21);
    } else {
        bson_document(&b, "cursor");
        bson_array(&b, "firstBatch");
        bson_document(&b, NULL);
        bson_int32(&b, "_id", 1);
        bson_string_n(&b, "text", filler, sizeof filler);
        bson_close(&b);
        bson_close(&b);
        bson_int64(&b, "id", 0);
        bson_string(&b, "ns", "test.numbers");
        bson_close(&b);
    }
    bson_double(&b, "ok", 1.0);
    return mongomsg_finish(&b);
}

static void serve_one(int i)
{
    static unsigned char in[65536], out[4096];
    ssize_t n = recv(polls[i].fd, in, sizeof in, 0);
    size_t at = 0;

    if (n <= 0) {
        close(polls[i].fd);
        polls[i] = polls[--count];
        sides[i] = sides[count];
        return;
    }
    while (at < (size_t)n) {
        enum wire_status status;
        at += wire_feed(&sides[i].wire, in + at, (size_t)n - at, &status);
        if (status == WIRE_BAD)
            exit(1);
        if (status == WIRE_WHOLE) {
            put(polls[i].fd, out, answer(&sides[i].wire, out, sizeof out));
            wire_start(&sides[i].wire, false);
        }
    }
}

static void serve(int port)
{
    struct sockaddr_in a = at(port);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(listener, 1024) != 0)
        die("listen");
    add(listener);
    for (;;) {
        poll(polls, (nfds_t)count, -1);
        if ((polls[0].revents & POLLIN) != 0)
            add(accept(listener, NULL, NULL));
        for (int i = count - 1; i > 0; i--)
            if (polls[i].revents != 0)
                serve_one(i);
    }
}

/* ----------------------------------------------------------- the clients */

static size_t question(const char *command, unsigned char *out, size_t cap)
{
    static const unsigned char id[16] = "sixteen bytes id";
    struct bson b;

    mongomsg_begin(&b, out, cap, WIRE_OP_MSG, 0, 7, 0);
    if (strcmp(command, "find") == 0) {
        bson_string(&b, "find", "numbers");
        bson_document(&b, "filter");
        bson_int32(&b, "_id", 1);
        bson_close(&b);
        bson_int32(&b, "limit", 1);
        bson_bool(&b, "singleBatch", true);
        bson_document(&b, "lsid");
        bson_binary(&b, "id", 4, id, sizeof id);
        bson_close(&b);
    } else {
        bson_int32(&b, command, 1);
    }
    bson_string(&b, "$db", "test");
    return mongomsg_finish(&b);
}

/* What comes belongs to one answer. True: it is whole. */
static bool heard(int i)
{
    static unsigned char in[65536];
    ssize_t n = recv(polls[i].fd, in, sizeof in, 0);
    enum wire_status status;

    if (n <= 0)
        die("an answer");
    if (wire_feed(&sides[i].wire, in, (size_t)n, &status) != (size_t)n || status == WIRE_BAD)
        exit(1);
    if (status == WIRE_WHOLE)
        wire_start(&sides[i].wire, true);
    return status == WIRE_WHOLE;
}

static void ask(int port, int clients, int seconds)
{
    unsigned char hello[512], find[512];
    size_t hello_len = question("hello", hello, sizeof hello), find_len = question("find", find, sizeof find);
    struct sockaddr_in a = at(port);
    unsigned long answers = 0;
    time_t end;

    for (int i = 0; i < clients; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0)
            die("connect");
        add(fd);
        wire_start(&sides[i].wire, true);
        put(fd, hello, hello_len);
        while (!heard(i))
            continue;
        put(fd, find, find_len);
    }
    for (end = time(NULL) + seconds; time(NULL) < end;) {
        poll(polls, (nfds_t)count, 1000);
        for (int i = 0; i < count; i++)
            if (polls[i].revents != 0 && heard(i)) {
                answers++;
                put(polls[i].fd, find, find_len);
            }
    }
    printf("%lu\n", answers);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        serve(atoi(argv[2]));
    else if (argc == 5 && strcmp(argv[1], "ask") == 0)
        ask(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    else
        return 64;
    return 0;
}
