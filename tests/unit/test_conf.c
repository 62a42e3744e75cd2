/*
 * test_conf.c - conf.c and option.c: what is read, what is refused and with which words, the report that can be read
 * again, and the example file that names every option.
 *
 *     a text --> temporary file --> conf_read --> struct conf, or a message on stderr (caught in a file)
 *
 * Run from the top folder, where puerta.conf.example lies, or with its path as the argument.
 */
#include "option.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/puerta_conf_XXXXXX";
static char file[64], secret[64], caught[64 * 1024], text[64 * 1024];
static struct conf conf, other;

/* ---------------------------------------------------------------- helpers */

/* Everything written to descriptor fd between begin and end; only one at a time. */
static int caught_fd, kept_fd;
static FILE *caught_file;

static void catch_begin(int fd)
{
    fflush(NULL);
    caught_fd = fd;
    caught_file = tmpfile();
    if (caught_file == NULL || (kept_fd = dup(fd)) < 0 || dup2(fileno(caught_file), fd) < 0) {
        printf("no temporary file\n");
        exit(1);
    }
}

static void catch_end(void)
{
    size_t n;

    fflush(NULL);
    dup2(kept_fd, caught_fd);
    close(kept_fd);
    rewind(caught_file);
    n = fread(caught, 1, sizeof caught - 1, caught_file);
    caught[n] = '\0';
    fclose(caught_file);
}

static void write_file(const char *path, const char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");

    if (f == NULL || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) {
        printf("cannot write %s\n", path);
        exit(1);
    }
}

static bool read_bytes(const char *bytes, size_t n)
{
    bool ok;

    write_file(file, bytes, n);
    catch_begin(STDERR_FILENO);
    ok = conf_read(&conf, file);
    catch_end();
    return ok;
}

static bool reads(const char *bytes)
{
    return read_bytes(bytes, strlen(bytes));
}

/* Reads a file with these lines in its sections, which are otherwise complete. */
static bool reads_lines(const char *process, const char *redis)
{
    snprintf(text, sizeof text, "[puerta]\n%s\n[redis a]\nnodes = h\n%s\n", process, redis);
    return reads(text);
}

static bool quick(int argc, const char *const *args)
{
    char copy[8][128], *argv[8];
    bool ok;

    for (int i = 0; i < argc; i++) {
        snprintf(copy[i], sizeof copy[i], "%s", args[i]);
        argv[i] = copy[i];
    }
    catch_begin(STDERR_FILENO);
    ok = conf_quick(&conf, SERVICE_REDIS, argc, argv);
    catch_end();
    return ok;
}

static size_t lines_in(const char *p)
{
    size_t n = 0;

    for (; *p != '\0'; p++)
        n += *p == '\n';
    return n;
}

/* ---------------------------------------------------------------- what is read */

static void test_defaults(void)
{
    const struct conf_service *s = &conf.services[0];
    char address[ADDRESS_TEXT];

    unit_note = "defaults";
    CHECK(reads("[redis a]\nnodes=h1"));
    CHECK(caught[0] == '\0');
    CHECK(conf.chunk_size == 16384 && conf.chunks == 2048 && conf.upstream_buffer == 131072 && conf.max_clients == 4096);
    CHECK(conf.max_backends == 64 && conf.max_requests == 32768 && conf.max_leases == 64 && conf.max_split_keys == 16384);
    CHECK(conf.log_level == LOG_INFO && conf.prefault == 0 && conf.supervise == 1 && conf.backlog == 1024);
    CHECK(conf.command_count == 0);
    CHECK(conf.stop_timeout_ms == 5000 && conf.service_count == 1 && strcmp(s->name, "a") == 0);
    CHECK(s->listens == 1 && strcmp(address_text(&s->listen[0], address), "127.0.0.1:6379") == 0);
    CHECK(s->node_count == 1 && strcmp(s->nodes[0].host, "h1") == 0 && s->nodes[0].port == 6379);
    CHECK(s->single == 0 && s->unknown_commands == 1 && s->upstream_user[0] == '\0' && s->upstream_password[0] == '\0');
    CHECK(s->retain_bytes == 262144 && s->shared_reply_limit == 65536 && s->client_window == 1048576);
    CHECK(s->client_pipeline == 1024 && s->merge_limit == 16777216 && s->dial_timeout_ms == 1000);
    CHECK(s->request_timeout_ms == 30000 && s->failover_wait_ms == 5000 && s->failover_queue == 10000);
    CHECK(s->client_stall_ms == 10000 && s->client_idle_ms == 0 && s->refresh_interval_ms == 15000);
    CHECK(s->probe_interval_ms == 1000 && s->probe_timeout_ms == 1000 && s->suspect_after_ms == 300);
    CHECK(s->lease_wait_ms == 5000 && s->rise == 1 && s->fall == 2 && s->receive_buffer == 0 && s->send_buffer == 0);
}

static void test_values(void)
{
    const struct conf_service *s = &conf.services[0];

    unit_note = "units, words and quotes";
    CHECK(reads_lines("chunk_size=4K\nchunks = 10000 # comment\n ; another\nlog_level = Debug\nprefault = on\nsupervise=false",
                      "client_idle=2m\nrequest_timeout = 1h\nsuspect_after=1ms\nmerge_limit=1g\nsend_buffer = 8192\n"
                      "unknown_commands=refuse\nupstream_password = \"a # b\"\nupstream_user = x#y;z=\nfall=100"));
    CHECK(conf.chunk_size == 4096 && conf.chunks == 10000 && conf.log_level == LOG_DEBUG && conf.prefault == 1);
    CHECK(conf.supervise == 0 && s->client_idle_ms == 120000 && s->request_timeout_ms == 3600000 && s->suspect_after_ms == 1);
    CHECK(s->merge_limit == 1073741824 && s->send_buffer == 8192 && s->unknown_commands == 0 && s->fall == 100);
    CHECK(strcmp(s->upstream_password, "a # b") == 0 && strcmp(s->upstream_user, "x#y;z=") == 0);

    unit_note = "BOM, CRLF, tabs, no newline at the end";
    CHECK(reads("\xef\xbb\xbf[puerta]\r\n\tmax_clients\t=\t7\r\n\r\n[ redis  b.c-d_1 ] # here\r\nnodes=h\r\nrise = 3"));
    CHECK(conf.max_clients == 7 && strcmp(s->name, "b.c-d_1") == 0 && s->rise == 3);

    unit_note = "a line of exactly 4096 bytes";
    memset(text, 'x', 4096);
    text[0] = '#';
    snprintf(text + 4096, sizeof text - 4096, "\n[redis a]\nnodes=h");
    CHECK(reads(text));
}

static void test_lists(void)
{
    static const struct host_port want[] = { { "a", 6379 }, { "b.c", 7000 }, { "1.2.3.4", 6379 }, { "::1", 6379 },
                                             { "fe80::1", 1 }, { "d_e-f", 65535 } };
    const struct conf_service *s = &conf.services[0];
    char address[ADDRESS_TEXT];

    unit_note = "nodes";
    CHECK(reads("[redis a]\nnodes = a b.c:7000,1.2.3.4\nnodes = [::1] , [fe80::1]:1,\nnodes=d_e-f:65535"));
    CHECK(s->node_count == 6);
    for (int i = 0; i < 6; i++)
        CHECK(strcmp(s->nodes[i].host, want[i].host) == 0 && s->nodes[i].port == want[i].port);
    CHECK(reads("[redis a]\ntopology = single\nnodes = unix:/run/redis.sock"));
    CHECK(s->single == 1 && s->node_count == 1 && strcmp(s->nodes[0].host, "/run/redis.sock") == 0 && s->nodes[0].port == 0);

    unit_note = "listen";
    CHECK(reads("[redis a]\nnodes=h\nlisten = 0.0.0.0:1, [::1]:2\nlisten = unix:/tmp/p.sock\n"
                "[redis b]\nnodes=h\n[redis c]\nnodes=h\nlisten = 127.0.0.1:1"));
    CHECK(s->listens == 3 && strcmp(address_text(&s->listen[0], address), "0.0.0.0:1") == 0);
    CHECK(strcmp(address_text(&s->listen[1], address), "[::1]:2") == 0);
    CHECK(strcmp(address_text(&s->listen[2], address), "unix:/tmp/p.sock") == 0);
    CHECK(conf.service_count == 3 && conf.services[1].listens == 1 && conf.services[2].listens == 1);
}

static bool command_is(int i, const char *name, enum command_keys keys, uint32_t flags)
{
    const struct conf_command *c = &conf.commands[i];

    return i < conf.command_count && strcmp(c->name, name) == 0 && c->keys == keys && c->flags == flags;
}

/* As redis_open() does it. */
static bool declares_all(void)
{
    command_init();
    for (int i = 0; i < conf.command_count; i++)
        if (command_declare(conf.commands[i].name, conf.commands[i].keys, conf.commands[i].flags) != 0)
            return false;
    return true;
}

static void test_commands(void)
{
    const char *args[] = { "h", "command=JSON.get first read", "command=ft.search none" };

    unit_note = "commands";
    CHECK(reads_lines("command = JSON.Get first read # a comment\ncommand=\"ft.search\tnone\"\ncommand =  my.merge  all  write\n"
                      "command = _ft.x dest-count-at-2 READ\ncommand = 1234567890123456789012345678901 migrate", ""));
    CHECK(caught[0] == '\0' && conf.command_count == 5);
    CHECK(command_is(0, "json.get", KEYS_FIRST, CMD_READONLY) && command_is(1, "ft.search", KEYS_NONE, CMD_WRITE));
    CHECK(command_is(2, "my.merge", KEYS_ALL, CMD_WRITE) && command_is(3, "_ft.x", KEYS_DEST_COUNT_AT_2, CMD_READONLY));
    CHECK(command_is(4, "1234567890123456789012345678901", KEYS_MIGRATE, CMD_WRITE) && declares_all());
    CHECK(command_find((const unsigned char *)"Json.Get", 8) != NULL);
    CHECK(reads_lines("command = json.get first", "") && conf.command_count == 1); /* what is declared does not stay */
    CHECK(quick(3, args) && conf.command_count == 2 && command_is(0, "json.get", KEYS_FIRST, CMD_READONLY));

    unit_note = "each shape by its name";
    for (int i = 0; i < KEYS_SHAPES; i++) {
        char line[64];
        snprintf(line, sizeof line, "command = x.y %s read", command_keys_name((enum command_keys)i));
        CHECK(reads_lines(line, "") && command_is(0, "x.y", (enum command_keys)i, CMD_READONLY));
    }

    unit_note = "as many commands as there may be, and one more";
    for (int more = 0; more < 2; more++) {
        char many[COMMAND_DECLARED_MAX * 32] = "";
        for (int i = 0; i < COMMAND_DECLARED_MAX + more; i++)
            snprintf(many + strlen(many), sizeof many - strlen(many), "command = mod.%d first\n", i);
        CHECK(reads_lines(many, "") == (more == 0));
        CHECK(conf.command_count == COMMAND_DECLARED_MAX && declares_all());
        CHECK(more == 0 || strstr(caught, ":66: one more than there may be: 'mod.64 first'; keep 64; unknown_commands") != NULL);
    }
}

static void test_secret_file(void)
{
    char line[128];

    unit_note = "a password in a file";
    snprintf(line, sizeof line, "upstream_password_file = %s", secret);
    write_file(secret, "s3cret word\r\nsecond\n", 20);
    CHECK(chmod(secret, 0600) == 0 && reads_lines("", line) && caught[0] == '\0');
    CHECK(strcmp(conf.services[0].upstream_password, "s3cret word") == 0);
    CHECK(chmod(secret, 0644) == 0 && reads_lines("", line) && strstr(caught, ":5: warning: others can read") != NULL);
    write_file(secret, "\nx\n", 3);
    CHECK(!reads_lines("", line) && strstr(caught, "nothing in the first line") != NULL);
    write_file(secret, "", 0);
    CHECK(!reads_lines("", line));
    memset(text, 'p', 256);
    write_file(secret, text, 255);
    CHECK(reads_lines("", line) && strlen(conf.services[0].upstream_password) == 255);
    memset(text, 'p', 256);
    write_file(secret, text, 256);
    CHECK(!reads_lines("", line) && strstr(caught, "too long") != NULL && strstr(caught, "ppp") == NULL);
    CHECK(!reads_lines("", "upstream_password_file = /nonexistent/x") && strstr(caught, "No such file") != NULL);
    snprintf(line, sizeof line, "upstream_password_file = %s\nupstream_password = x", secret);
    write_file(secret, "y\n", 2);
    CHECK(!reads_lines("", line) && strstr(caught, "two passwords") != NULL);

    unit_note = "that of clients is another";
    snprintf(line, sizeof line, "password_file = %s\nupstream_password = x", secret);
    CHECK(reads_lines("", line) && strcmp(conf.services[0].password, "y") == 0 && strcmp(conf.services[0].upstream_password, "x") == 0);
    snprintf(line, sizeof line, "password = x\npassword_file = %s", secret);
    CHECK(!reads_lines("", line) && strstr(caught, ":6: two passwords in section") != NULL);
    CHECK(strstr(caught, "keep password or password_file") != NULL);
}

/* ------------------------------------------------------------------ MongoDB */

#define KEYS "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

static bool reads_mongo(const char *lines)
{
    snprintf(text, sizeof text, "[mongo a]\nmongos = h\n%s\n", lines);
    return reads(text);
}

static void test_mongo_login(void)
{
    const struct conf_service *s = &conf.services[0];
    char line[256], key[1100];

    unit_note = "as whom Puerta logs in";
    CHECK(reads_mongo("") && s->upstream_user[0] == '\0' && strcmp(s->upstream_auth_db, "admin") == 0 && s->upstream_key[0] == '\0');
    CHECK(reads_mongo("upstream_user = app\nupstream_password = \"a # b\"\nupstream_auth_db = shop") && caught[0] == '\0');
    CHECK(strcmp(s->upstream_user, "app") == 0 && strcmp(s->upstream_password, "a # b") == 0 && strcmp(s->upstream_auth_db, "shop") == 0);
    snprintf(line, sizeof line, "upstream_user = app\nupstream_password_file = %s", secret);
    write_file(secret, "s3cret\n", 7);
    CHECK(chmod(secret, 0600) == 0 && reads_mongo(line) && strcmp(s->upstream_password, "s3cret") == 0);

    unit_note = "a keyfile";
    snprintf(line, sizeof line, "upstream_keyfile = %s", secret);
    write_file(secret, " ab\tCD\r\n01+/=\n\n", 15);
    CHECK(reads_mongo(line) && caught[0] == '\0' && strcmp(s->upstream_key, "abCD01+/=") == 0);
    CHECK(strcmp(s->upstream_user, "__system") == 0 && strcmp(s->upstream_auth_db, "local") == 0 && s->upstream_password[0] == '\0');
    snprintf(line, sizeof line, "upstream_keyfile = %s\nupstream_user = other\nupstream_auth_db = admin", secret);
    CHECK(reads_mongo(line) && strcmp(s->upstream_user, "other") == 0 && strcmp(s->upstream_auth_db, "admin") == 0);
    snprintf(line, sizeof line, "upstream_keyfile = %s", secret);
    CHECK(chmod(secret, 0644) == 0 && reads_mongo(line) && strstr(caught, ":3: warning: others can read") != NULL && chmod(secret, 0600) == 0);
    memset(key, 'k', sizeof key);
    for (size_t n = 0; n < sizeof key; n += n == 6 ? 1018 : 1) { /* 0 to 6, and 1024 on */
        write_file(secret, key, n);
        CHECK(reads_mongo(line) == (n >= 6 && n <= 1024));
        CHECK((n >= 6 && n <= 1024) || (strstr(caught, ":3: not a keyfile of MongoDB: '") != NULL && strstr(caught, "kkk") == NULL));
        CHECK(strlen(s->upstream_key) == (n >= 6 && n <= 1024 ? n : 0));
    }
    write_file(secret, "abcdef\0ghijk", 12);
    CHECK(!reads_mongo(line));
    write_file(secret, "abcdef-ghijk", 12);
    CHECK(!reads_mongo(line) && strstr(caught, "6 to 1024 letters of base64") != NULL);
    CHECK(!reads_mongo("upstream_keyfile = /nonexistent/x") && strstr(caught, "No such file") != NULL);
    write_file(secret, "abcdefghijk", 11);
    snprintf(line, sizeof line, "upstream_keyfile = %s\nupstream_password = hush", secret);
    CHECK(!reads_mongo(line) && strstr(caught, ":3: a keyfile and a password in section: 'a'; keep upstream_keyfile or the password") != NULL);
}

static void test_mongo_users(void)
{
    const struct conf_service *s = &conf.services[0];
    char many[MAX_USERS * 256 + 512], name[SCRAM_NAME_MAX + 2];

    unit_note = "users";
    CHECK(reads_mongo("mode = pooled\nuser = app " KEYS "\nuser =  two words \t " KEYS "\nuser = \"x;# " KEYS "\"") && caught[0] == '\0');
    CHECK(s->mode == MONGO_POOLED && s->user_count == 3 && strcmp(s->users[0].name, "app") == 0);
    CHECK(strcmp(s->users[1].name, "two words") == 0 && strcmp(s->users[2].name, "x;#") == 0);
    CHECK(s->users[0].keys.rounds == 4096 && s->users[0].keys.salt_len == 16 && memcmp(&s->users[0].keys, &s->users[1].keys, sizeof s->users[0].keys) == 0);
    for (int more = 0; more < 2; more++) {
        memset(name, 'n', sizeof name);
        name[SCRAM_NAME_MAX + more] = '\0';
        snprintf(many, sizeof many, "mode = pooled\nuser = %s " KEYS, name);
        CHECK(reads_mongo(many) == (more == 0) && (more == 0 || strstr(caught, ":4: too long a name") != NULL));
        snprintf(many, sizeof many, "mode = pooled\n");
        for (int i = 0; i < MAX_USERS + more; i++)
            snprintf(many + strlen(many), sizeof many - strlen(many), "user = u%d " KEYS "\n", i);
        CHECK(reads_mongo(many) == (more == 0) && s->user_count == MAX_USERS);
        CHECK(more == 0 || strstr(caught, ":20: one more than a section may have: 'u16 ******'; keep 16") != NULL);
    }
}

static void test_mongo_refused(void)
{
    static const struct { const char *lines, *message; } rows[] = {
        { "upstream_user = app", ":3: a user without a password: 'app'; add upstream_password, upstream_password_file or upstream_keyfile" },
        { "upstream_password = hush", ":3: a password without a user in section: 'a'; add upstream_user" },
        { "upstream_user = app\nupstream_password = x\nupstream_auth_db = a.b", ":5: not a name of a database: 'a.b'" },
        { "upstream_auth_db = \"\"", ":3: not a name of a database: ''" },
        { "upstream_auth_db = $external", ":3: not a name of a database" },
        { "upstream_keyfil = hush", ":3: no such key: 'upstream_keyfil'; the nearest known key is upstream_keyfile" },
        { "user = app " KEYS, ":3: in this mode clients log in at the mongos themselves: 'app'; set mode = pooled, or leave user out" },
        { "mode = loadbalanced\nuser = app " KEYS, ":4: in this mode clients" },
        { "mode = pooled\nuser = app", ":4: a user without keys: 'app'; write user = NAME KEYS" },
        { "mode = pooled\nuser = app hush", ":4: not the keys of a password: 'app ******'; puerta hash-password reads" },
        { "mode = pooled\nuser = app " KEYS " x", ":4: too long a name: 'app ******'" },
        { "mode = pooled\nuser = app " KEYS "\nuser = app " KEYS, ":5: a user given before: 'app ******'; keep one of them" },
        { "mode = poolled", ":3: an unknown word: 'poolled'; mode must be one of: passthrough|loadbalanced|pooled" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unit_note = rows[i].lines;
        CHECK(!reads_mongo(rows[i].lines) && strstr(caught, rows[i].message) != NULL);
        CHECK(strstr(caught, "hush'") == NULL && strstr(caught, "WG5d8") == NULL);
    }
    unit_note = "users belong to MongoDB";
    CHECK(!reads_lines("", "user = app " KEYS) && strstr(caught, "user belongs in a [puerta] or [mongo NAME] section") != NULL && strstr(caught, "WG5d8") == NULL);
    CHECK(!reads_mongo("usr = app") && strstr(caught, "the nearest known key is user") != NULL);
    CHECK(!reads("[puerta]\nuser = app " KEYS "\n[redis a]\nnodes=h") && strstr(caught, ":2: too long: '******'") != NULL && strstr(caught, "WG5d8") == NULL);
}

/* ------------------------------------------------------------- what is refused */

static void test_refused(void)
{
    static const struct { const char *file, *message; } rows[] = {
        /* structure */
        { "", ":0: no section to serve: '[redis NAME]'; add [redis main]" },
        { "[puerta]\n", ":1: no section to serve" },
        { "nodes = h\n[redis a]\nnodes=h", ":1: a key before the first section: 'nodes'; put it below" },
        { "[redis a]\nnodes h", ":2: not a line of a configuration: 'nodes'; write key = value" },
        { "[redis a]\n= h", ":2: not a line of a configuration: '='" },
        { "[redis a\nnodes=h", ":1: not the header of a section: '[redis a'; the sections are [puerta], [redis NAME] and [mongo NAME]" },
        { "[redis a] x\nnodes=h", ":1: not the header of a section" },
        { "[]\nnodes=h", ":1: an unknown section: '[]'" },
        { "[mysql m]\nnodes=h", ":1: an unknown section: '[mysql m]'" },
        { "[puerta x]\n", ":1: an unknown section: '[puerta x]'" },
        { "[puerta]\n[puerta]\n", ":2: a second section for the process" },
        { "[redis]\nnodes=h", ":1: a section without a name: '[redis]'; [redis NAME]" },
        { "[redis a b]\nnodes=h", ":1: not a name of a section: '[redis a b]'" },
        { "[redis 12345678901234567890123456789012]\nnodes=h", ":1: not a name of a section" },
        { "[redis a]\nnodes=h\n[redis a]\nnodes=h", ":3: a name used before: '[redis a]'" },
        { "[redis 1]\n[redis 2]\n[redis 3]\n[redis 4]\n[redis 5]\n[redis 6]\n[redis 7]\n[redis 8]\n[redis 9]\n",
          ":9: more than 8 sections" },
        /* keys */
        { "[puerta]\nmax_client = 5\n", ":2: no such key: 'max_client'; the nearest known key is max_clients" },
        { "[redis a]\nNodes = h\n", ":2: no such key: 'Nodes'; the nearest known key is nodes" },
        { "[redis a]\nclient-stall = 5s\n", ":2: no such key: 'client-stall'; the nearest known key is client_stall" },
        { "[redis a]\nupstream_pasword = x\n", "the nearest known key is upstream_password" },
        { "[redis a]\nfrobnicate = 1\n", ":2: no such key: 'frobnicate'; puerta -h options lists all keys" },
        { "[redis a]\nmax_clients = 1\n", ":2: no such key: 'max_clients'; max_clients belongs in a [puerta] section" },
        { "[puerta]\nlisten = 1.1.1.1:1\n", "listen belongs in a [redis NAME] section" },
        { "[redis a]\nrise = 1\nnodes = h\nrise = 2", ":4: given twice in one section: 'rise'; keep one; line 2 has the first" },
        /* values */
        { "[redis a]\nnodes =\n", ":2: a key without a value: 'nodes'" },
        { "[redis a]\nnodes = # h\n", ":2: a key without a value" },
        { "[redis a]\nnodes = ,\n", ":2: an empty list: ','" },
        { "[redis a]\nnodes = h\nannounce = here\n", ":3: not an address (the port is missing; HOST:PORT is wanted): 'here'" },
        { "[redis a]\nnodes = h\nredis_version = 7.4\n", ":3: not a version: '7.4'" },
        { "[redis a]\nnodes = h\nredis_version = 7.4.x\n", ":3: not a version: '7.4.x'" },
        { "[redis a]\nnodes = h\nredis_version = 7.4.2.1\n", ":3: not a version: '7.4.2.1'" },
        { "[redis a]\nnodes = h\nannounce = h:0\n", ":3: not an address (a port is a number from 1 to 65535)" },
        { "[redis a]\nupstream_user = \"x\n", ":2: a quote that is not closed: 'upstream_user'" },
        { "[redis a]\nupstream_user = \"x\" y\n", ":2: more text after the closing quote" },
        { "[puerta]\nchunk_size = 3k\n[redis a]\nnodes=h", ":2: chunk_size is not a power of two: '3k'; 1k, 2k, 4k" },
        { "[puerta]\nchunk_size = 64kb\n", ":2: an unknown unit: '64kb'; chunk_size must be a size in bytes or with k, m or g: 1k to 256k" },
        { "[puerta]\nchunk_size = 512\n", ":2: out of range: '512'; chunk_size must be a size in bytes or with k, m or g: 1k to 256k" },
        { "[puerta]\nchunk_size = -1\n", ":2: not a size: '-1'" },
        { "[puerta]\nchunk_size = 99999999999999999999g\n", ":2: out of range" },
        { "[puerta]\nchunk_size = 18446744073709551617\n", ":2: out of range" },
        { "[puerta]\nmax_clients = 10k\n", ":2: not a whole number: '10k'; max_clients must be a whole number: 1 to 1000000" },
        { "[puerta]\nmax_clients = 0\n", ":2: out of range: '0'" },
        { "[puerta]\nmax_clients = 1000001\n", ":2: out of range" },
        { "[puerta]\nstop_timeout = 5\n", ":2: a time without a unit: '5'; stop_timeout must be a time with ms, s, m or h: 100ms to 10m" },
        { "[puerta]\nstop_timeout = 5 s\n", ":2: an unknown unit: '5 s'" },
        { "[puerta]\nstop_timeout = soon\n", ":2: not a time: 'soon'" },
        { "[redis a]\nclient_idle = 25h\n", ":2: out of range: '25h'; client_idle must be a time with ms, s, m or h: 1ms to 24h, or 0: never" },
        { "[redis a]\ndial_timeout = 0\n", ":2: out of range: '0'" },
        { "[redis a]\nsend_buffer = 1k\n", "4k to 16m, or 0: the system's own" },
        { "[puerta]\nprefault = maybe\n", ":2: neither yes nor no: 'maybe'" },
        { "[puerta]\nlog_level = loud\n", ":2: an unknown word: 'loud'; log_level must be one of: error|warn|info|debug" },
        { "[redis a]\nlisten = 6380\n", ":2: not an address to listen on (" },
        { "[redis a]\nlisten = localhost:6380\n", ":2: not an address to listen on (" },
        { "[redis a]\nlisten = 127.0.0.1:0\n", ":2: not an address to listen on (" },
        { "[redis a]\nlisten = unix:\n", ":2: not an address to listen on (" },
        { "[redis a]\nlisten = 1.1.1.1:1 1.1.1.1:2 1.1.1.1:3 1.1.1.1:4 1.1.1.1:5\n", "(one more than a section may have): '1.1.1.1:5'" },
        { "[redis a]\nnodes = ::1\n", ":2: not a node (an IPv6 address needs brackets): '::1'" },
        { "[redis a]\nnodes = redis://h:1\n", ":2: not a node (" },
        { "[redis a]\nnodes = h:70000\n", ":2: not a node (" },
        { "[redis a]\nnodes = h:0\n", ":2: not a node (" },
        { "[redis a]\nnodes = h:\n", ":2: not a node (" },
        { "[redis a]\nnodes = :1\n", ":2: not a node (" },
        { "[redis a]\nnodes = [::1\n", ":2: not a node (" },
        { "[redis a]\nnodes = []\n", ":2: not a node (" },
        { "[redis a]\nnodes = h/0\n", ":2: not a node (" },
        { "[redis a]\nnodes = 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n", "(one more than a section may have): '17'" },
        { "[puerta]\ncommand = \"\"\n", ":2: an empty list: ''; command must be a declaration: NAME SHAPE [read|write], one a line, up to 64" },
        { "[puerta]\ncommand = json.get\n", ":2: a command without a shape: 'json.get'; the shapes are none first all pairs" },
        { "[puerta]\ncommand = json.get frist read\n", ":2: an unknown shape: 'json.get frist read'; the nearest shape is first; the shapes are none first" },
        { "[puerta]\ncommand = json.get read\n", ":2: an unknown shape: 'json.get read'; the shapes are none first all pairs all-but-last "
          "first-two second from-second count-at-1 count-at-2 dest-count-at-2 counted-pairs streams georadius sort migrate\n" },
        { "[puerta]\ncommand = json.get count_at_2\n", "the nearest shape is count-at-2; " },
        { "[puerta]\ncommand = json.get first raed\n", ":2: neither read nor write: 'json.get first raed'; write command = NAME SHAPE [read|write]" },
        { "[puerta]\ncommand = a first read b first\n", ":2: more than one command: 'a first read b first'; write command = NAME SHAPE" },
        { "[puerta]\ncommand = a first, b first\n", ":2: an unknown shape: 'a first, b first'; the nearest shape is first" },
        { "[puerta]\ncommand = Get first\n", ":2: a command that Puerta knows: 'Get first'; take it out" },
        { "[puerta]\ncommand = cluster none\n", ":2: a command that Puerta knows" },
        { "[puerta]\ncommand = a.b first\ncommand = A.B all\n", ":3: a command declared before: 'A.B all'; take it out" },
        { "[puerta]\ncommand = ft|x first\n", ":2: not a name of a command: 'ft|x first'; 1 to 31 printable bytes" },
        { "[puerta]\ncommand = 12345678901234567890123456789012 first\n", ":2: not a name of a command" },
        { "[puerta]\ncommand = caf\xc3\xa9 first\n", ":2: not a name of a command" },
        { "[redis a]\ncommand = a.b first\n", ":2: no such key: 'command'; command belongs in a [puerta] section" },
        { "[puerta]\ncomand = a.b first\n", ":2: no such key: 'comand'; the nearest known key is command" },
        { "[puerta]\nupstream_buffer = 15k\n", ":2: out of range: '15k'; upstream_buffer must be a size in bytes or with k, m or g: 16k to 1m" },
        { "[redis a]\nshared_reply_limit = 2m\n", ":2: out of range: '2m'; shared_reply_limit must be a size in bytes or with k, m or g: 4k to 1m" },
        /* the whole */
        { "[redis a]\nnodes = h\nshared_reply_limit = 256k", ":3: shared_reply_limit is more than upstream_buffer: '256k'; "
          "at most 128k with this upstream_buffer, or raise upstream_buffer to 256k" },
        { "[puerta]\nupstream_buffer = 32k\n[redis a]\nnodes = h", ":2: shared_reply_limit is more than upstream_buffer: '64k'; at most 32k" },
        { "# x\n[redis a]\nrise=1\n", ":2: no nodes in section: 'a'; add a line such as nodes = " },
        { "[redis a]\nnodes = h\n[redis b]\nnodes = h\n", ":3: an address that [redis a] listens on already: '127.0.0.1:6379'" },
        { "[redis a]\nnodes = h\nlisten = [::1]:5\n[redis b]\nnodes = h\nlisten = [0::1]:5", ":6: an address that [redis a] listens on" },
        { "[redis a]\nnodes = h\nlisten = 1.1.1.1:5\nlisten = 1.1.1.1:5", "an address that [redis a] listens on already" },
        { "[puerta]\nchunks = 64\n[redis a]\nnodes = h\nretain_bytes = 200k", ":5: retain_bytes is more than an eighth of the buffer pool: '200k'; "
          "at most 128k with this chunk_size x chunks, or raise chunks to 100" },
        { "[puerta]\nchunks = 64\n[redis a]\nnodes = h", ":3: retain_bytes is more than an eighth" },
        { "[redis a]\nnodes = unix:/x", ":2: a cluster has no node on a unix socket: '/x'; give HOST:PORT, or set topology = single" },
        { "[redis a]\nnodes = a, b\ntopology = single", ":2: topology = single with 2 nodes" },
        { "[redis a]\nnodes = a\nupstream_user = u", ":3: a user without a password: 'u'" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unit_note = rows[i].message;
        CHECK(!reads(rows[i].file));
        if (rows[i].file[0] == '\0') /* an empty file has no line to name */
            CHECK(strstr(caught, rows[i].message + 2) != NULL);
        else if (!CHECK(strstr(caught, rows[i].message) != NULL))
            printf("    said: %s", caught);
        CHECK(strncmp(caught, file, strlen(file)) == 0 && lines_in(caught) >= 1);
    }
}

static void test_refused_bytes(void)
{
    unit_note = "bytes that no text file has";
    CHECK(!read_bytes("[redis a]\nno\0des=h\n", 19) && strstr(caught, ":2: a zero byte") != NULL);
    CHECK(!read_bytes("\xff\xfe[\0r\0", 6) && strstr(caught, "UTF-8") != NULL);
    unit_note = "a line that is too long, and the line after it";
    memset(text, 'x', 5000);
    snprintf(text + 5000, sizeof text - 5000, "\nfoo\n");
    CHECK(!reads(text) && strstr(caught, ":1: a line of more than 4096 bytes") != NULL && strstr(caught, ":2: ") != NULL);
    unit_note = "control bytes are not sent to a terminal";
    CHECK(!reads("[redis a]\nno\x1b[2Jdes = h\n") && strchr(caught, '\x1b') == NULL);
    unit_note = "no more than 20 errors";
    text[0] = '\0';
    for (int i = 0; i < 100; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "bad\n");
    CHECK(!reads(text) && lines_in(caught) == 21 && strstr(caught, ":20: ") != NULL && strstr(caught, "20 errors") != NULL);
    unit_note = "a folder, and nothing at all";
    catch_begin(STDERR_FILENO);
    CHECK(!conf_read(&conf, folder));
    catch_end();
    CHECK(strstr(caught, "cannot be read") != NULL && strncmp(caught, folder, strlen(folder)) == 0);
    catch_begin(STDERR_FILENO);
    CHECK(!conf_read(&conf, "/nonexistent/puerta.conf"));
    catch_end();
    CHECK(strstr(caught, "/nonexistent/puerta.conf: cannot be opened: 'No such file or directory'; ") == caught);
}

static void test_secrets_hidden(void)
{
    const char *args[] = { "h", "upstream_password_file=hush/hush" };

    unit_note = "a message does not repeat a password";
    snprintf(text, sizeof text, "[redis a]\nupstream_password = %0300d\n", 0);
    CHECK(!reads(text) && strstr(caught, "'******'") != NULL && strstr(caught, "000") == NULL);
    CHECK(!reads("[redis a]\nupstream_password hush\n") && strstr(caught, "hush") == NULL);
    CHECK(!reads("[redis a]\nupstream_password = \"hush\n") && strstr(caught, "hush") == NULL);
    CHECK(!quick(2, args) && strstr(caught, "puerta: argument 'upstream_password_file=******': ") == caught);
    static const char *const keys[] = { "password_file=hush/hush", "passwort=hush", "Password=hush", "upstream-password=hush",
                                        "requirepass=hush", "pass=hush" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        args[1] = keys[i];
        unit_note = keys[i];
        CHECK(!quick(2, args) && strstr(caught, "=******': ") != NULL);
        CHECK(i == 0 || strstr(caught, "hush") == NULL); /* a path is no secret */
    }
}

/* -------------------------------------------------------------- quick start */

static void test_quick(void)
{
    const char *good[] = { "h1:7000,h2,[::1]", "listen=unix:/tmp/x", "max_clients=10000", "rise=5", "log_level=warn",
                           "upstream_user=u", "upstream_password=p = # \"" };
    const struct conf_service *s = &conf.services[0];

    unit_note = "quick start";
    CHECK(quick(7, good) && caught[0] == '\0');
    CHECK(conf.supervise == 0 && conf.max_clients == 10000 && conf.log_level == LOG_WARN && conf.service_count == 1);
    CHECK(strcmp(s->name, "redis") == 0 && s->node_count == 3 && s->nodes[0].port == 7000 && s->rise == 5);
    CHECK(s->listens == 1 && s->listen[0].u.sa.sa_family == AF_UNIX && strcmp(s->upstream_password, "p = # \"") == 0);
    CHECK(quick(1, good) && s->listens == 1);

    static const struct { const char *argument, *message; } rows[] = {
        { "rise", "puerta: argument 'rise': not a key=value: 'rise'; write key=value" },
        { "=5", "not a key=value" },
        { "rize=5", "puerta: argument 'rize=5': no such key: 'rize'; the nearest known key is rise" },
        { "max_client=5", "the nearest known key is max_clients" },
        { "rise=0", "puerta: argument 'rise=0': out of range: '0'; rise must be a whole number: 1 to 100" },
        { "rise=", "puerta: argument 'rise=': not a whole number: ''" },
        { "retain_bytes=8m", "puerta: argument 'retain_bytes=8m': retain_bytes is more than an eighth" },
        { "chunk_size=5000", "puerta: argument 'chunk_size=5000': chunk_size is not a power of two" },
        { "upstream_buffer=16k", "puerta: argument 'upstream_buffer=16k': shared_reply_limit is more than upstream_buffer" },
        { "upstream_buffer=64k", NULL },
        { "command=json.get frist read", "puerta: argument 'command=json.get frist read': an unknown shape: 'json.get frist read'; the nearest" },
        { "chunks=64", "puerta: argument 'h': retain_bytes is more than an eighth" },
        { "topology=single", NULL },
        { "supervise=yes", NULL },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *args[] = { "h", rows[i].argument };
        bool ok = quick(2, args);
        unit_note = rows[i].argument;
        CHECK(ok == (rows[i].message == NULL));
        CHECK(ok || strstr(caught, rows[i].message) != NULL);
    }
    CHECK(conf.supervise == 1);
    unit_note = "no nodes";
    CHECK(!quick(0, good) && strstr(caught, "puerta redis HOST:PORT") != NULL);
    const char *none[] = { "listen=1.1.1.1:1" }, *twice[] = { "h", "rise=1", "rise=2" };
    CHECK(!quick(1, none) && strstr(caught, "puerta: argument 'listen=1.1.1.1:1': not a node (") == caught);
    CHECK(!quick(3, twice) && strstr(caught, "keep one; argument 2 has the first") != NULL);
}

/* ------------------------------------------------------- report, help, example */

static void report_into(char *out, size_t cap)
{
    catch_begin(STDOUT_FILENO);
    conf_report(&conf);
    catch_end();
    snprintf(out, cap, "%s", caught);
}

static void test_report(void)
{
    static char report[sizeof caught];

    unit_note = "the report can be read again and says the same";
    CHECK(reads("[puerta]\nchunk_size = 8k\nsupervise = no\nlog_level = warn\nstop_timeout = 1500ms\n"
                "command = json.get first read\ncommand = FT.search none\n[redis a]\nnodes = a, [::1]:5, b:7\nlisten = [::]:1, 0.0.0.0:2\nreceive_buffer = 64k\nsend_buffer=4097\n"
                "client_idle = 90s\nupstream_user = \"x # y\"\nupstream_password = hush\nunknown_commands = refuse\n"
                "[redis b]\nnodes = unix:/run/x\ntopology = single\nupstream_user = a\"b\nupstream_password = \"******\"\n"));
    memcpy(&other, &conf, sizeof other);
    arena_measure();
    arena_take("connections", 100, 300);
    arena_take("chunks", 2048, 8224);
    report_into(report, sizeof report);
    CHECK(strstr(report, "hush") == NULL && strstr(report, "upstream_password = ******\n") != NULL);
    CHECK(strstr(report, "\ncommand = json.get first read\ncommand = ft.search none write\n") != NULL);
    CHECK(strstr(report, "stop_timeout = 1500ms\n") != NULL && strstr(report, "client_idle = 90s\n") != NULL);
    CHECK(strstr(report, "connections                   100          300          30000\n") != NULL);
    CHECK(strstr(report, "system default") != NULL && strstr(report, "descriptors needed") != NULL);
    CHECK(reads(report) && caught[0] == '\0');
    snprintf(other.services[0].upstream_password, SECRET_CAP, "******");
    memset(other.services[0].upstream_password + 6, 0, SECRET_CAP - 6);
    memset(conf.services[0].upstream_password + 6, 0, SECRET_CAP - 6);
    CHECK(memcmp(&other, &conf, sizeof conf) == 0);

    unit_note = "users and keyfiles are told, not shown";
    write_file(secret, "abcdefghijk", 11);
    snprintf(text, sizeof text, "upstream_keyfile = %s\nmode = pooled\nuser = app " KEYS "\n", secret);
    snprintf(report, sizeof report, "%s", text);
    CHECK(reads_mongo(report));
    report_into(report, sizeof report);
    CHECK(strstr(report, "\n#upstream_keyfile = ******\n") != NULL && strstr(report, "\n#user = app ******\n") != NULL);
    CHECK(strstr(report, "\nupstream_user = \"__system\"\n") != NULL && strstr(report, "abcdef") == NULL && strstr(report, "WG5d8") == NULL);

    unit_note = "the kernel's share, and a total beyond memory";
    CHECK(reads_lines("max_clients = 100\nmax_backends = 10\nmax_leases = 10\nmax_blocked = 0\nmax_watching = 0\nmax_own = 0", "receive_buffer=16k\nsend_buffer=16k"));
    arena_take("huge", SIZE_MAX / 2, 4);
    report_into(report, sizeof report);
    CHECK(strstr(report, "150        32768        4915200 at most") != NULL);
    CHECK(strstr(report, "more than this machine can address") != NULL);
    arena_measure();
}

static void test_help(void)
{
    unit_note = "help names every option";
    catch_begin(STDOUT_FILENO);
    CHECK(conf_help("options"));
    catch_end();
    CHECK(strstr(caught, "SHAPE is one of none first all ") != NULL && strstr(caught, " sort migrate\n") != NULL);
    for (size_t i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        char line[256], range[OPTION_TEXT];
        snprintf(line, sizeof line, "  %s = %s  (%s)%s\n      %s\n", o->key, o->standard[0] != '\0' ? o->standard : "\"\"",
                 option_range(o, range), o->live ? "" : "  restart", o->help);
        unit_note = o->key;
        CHECK(strstr(caught, line) != NULL);
        CHECK(strlen(o->help) > 10 && strlen(o->help) < 115);
        CHECK(option_find(o->scope, o->key) == o);
        CHECK(option_near(o->key) != NULL && strcmp(option_near(o->key)->key, o->key) == 0);
    }
}

/* Whether the example has `KEY = DEFAULT` (any value where there is no default) in the right section. */
static bool example_has(const char *example, const struct option *o)
{
    char want[128], header[64];
    const char *p = strstr(example, "\n[puerta]\n"), *end = strstr(example, "\n[redis main]\n");
    size_t n;

    if (p == NULL || end == NULL)
        return false;
    if (o->scope == REDIS) {
        p = end;
        end = strstr(p, "\n[mongo main]\n");
    } else if (o->scope == MONGO) {
        p = strstr(end, "\n[mongo main]\n");
        end = strstr(end, "\n#[puerta]\n"); /* the profile at the end does not count */
    }
    snprintf(header, sizeof header, "\n%s%s = ", o->type == SECRET_FILE || o->type == COMMAND || o->type == KEYFILE || o->type == USER ||
             ((o->type == NETS || o->type == LISTEN) && o->standard[0] == '\0') ? "#" : "", o->key);
    snprintf(want, sizeof want, "%s%s", header, o->standard);
    p = strstr(p, want);
    n = strlen(want);
    return p != NULL && end != NULL && p < end && (o->standard[0] == '\0' || p[n] == '\n');
}

static void test_example(const char *path)
{
    static char example[sizeof text];
    FILE *f = fopen(path, "r");
    char *profile, *p;
    size_t n = 0;

    unit_note = path;
    if (!CHECK(f != NULL))
        return;
    n = fread(example, 1, sizeof example - 1, f);
    fclose(f);
    example[n] = '\0';
    CHECK(reads(example) && caught[0] == '\0');
    memcpy(&other, &conf, sizeof other);
    CHECK(reads("[redis main]\nnodes = 10.0.0.1:6379, 10.0.0.2:6379, 10.0.0.3:6379\n"
                "[mongo main]\nmongos = 10.0.0.1:27017, 10.0.0.2:27017, 10.0.0.3:27017\n"));
    CHECK(memcmp(&other, &conf, sizeof conf) == 0);
    for (size_t i = 0; i < option_count; i++) {
        unit_note = options[i].key;
        CHECK(example_has(example, &options[i]));
    }
    unit_note = "the commands in the example";
    p = strstr(example, "\n#command = ");
    CHECK(p != NULL);
    for (; p != NULL; p = strstr(p, "\n#command = "))
        p[1] = ' ';
    CHECK(reads(example) && caught[0] == '\0' && conf.command_count == 3 && declares_all());
    unit_note = "the router profile in the example";
    profile = strstr(example, "\n#[puerta]\n");
    if (!CHECK(profile != NULL))
        return;
    for (p = profile; (p = strstr(p, "\n#")) != NULL; p++)
        p[1] = ' ';
    CHECK(reads(profile) && caught[0] == '\0' && conf.chunk_size * conf.chunks <= 4u << 20);
}

/* ------------------------------------------------------------------ hostile */

/* The example with some bytes changed: any answer will do, as long as there is one. */
static void test_mutations(const char *path)
{
    static const char bytes[] = "[]=\"#;,: \t\r\n\0\xff" "0k9-";
    static char example[sizeof text], changed[sizeof text];
    uint32_t seed = 12345;
    FILE *f = fopen(path, "r");
    size_t n;

    unit_note = "changed bytes";
    if (!CHECK(f != NULL))
        return;
    n = fread(example, 1, sizeof example, f);
    fclose(f);
    for (int round = 0; round < 300; round++) {
        memcpy(changed, example, n);
        for (int i = 0; i < 20; i++) {
            seed = seed * 1664525 + 1013904223;
            changed[(seed >> 8) % n] = bytes[(seed >> 3) % (sizeof bytes - 1)];
        }
        bool ok = read_bytes(changed, n);
        CHECK(ok == (caught[0] == '\0'));
    }
}

/* ------------------------------------------------------- two configurations */

/* The options in which `other` and `conf` differ, as "key was|is " one behind the other. */
static const char *differences(void)
{
    static char out[4096];
    char was[OPTION_TEXT], is[OPTION_TEXT];
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        enum option_scope scope = conf.services[0].kind == SERVICE_MONGO ? MONGO : REDIS;
        const void *a = o->scope == PROCESS ? (void *)&other : (void *)&other.services[0];
        const void *b = o->scope == PROCESS ? (void *)&conf : (void *)&conf.services[0];
        if ((o->scope == PROCESS || o->scope == scope) && !option_same(o, a, b))
            n += (size_t)snprintf(out + n, sizeof out - n, "%s %s|%s ", o->key, option_show(o, a, was), option_show(o, b, is));
    }
    return out;
}

/* Another file than the one before: the differences. */
static const char *changed_to(const char *bytes)
{
    other = conf;
    CHECK(reads(bytes));
    return differences();
}

static void test_two(void)
{
    static const char keys[] = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    char users[1024];

    unit_note = "two configurations";
    CHECK(reads("[redis a]\nnodes=h1"));
    CHECK(strcmp(changed_to("[puerta]\n[redis a]\nnodes = h1:6379 # the same\n"), "") == 0);
    CHECK(strcmp(changed_to("[puerta]\nchunks=1000\nlog_level=debug\n[redis a]\nnodes=h1\nclient_idle=90s\nprotected=no"),
                 "chunks 2048|1000 log_level info|debug protected yes|no client_idle 0|90s ") == 0);
    CHECK(strcmp(changed_to("[puerta]\nchunks=1000\nlog_level=debug\n[redis a]\nnodes=h1, [::1]:7000\nclient_idle=90s\nprotected=no\nlisten=127.0.0.1:1,unix:/s"),
                 "listen 127.0.0.1:6379|127.0.0.1:1, unix:/s nodes h1:6379|h1:6379, [::1]:7000 ") == 0);
    unit_note = "secrets are not shown; a shorter text leaves nothing behind";
    CHECK(reads("[redis a]\nnodes=h1\npassword=first-and-long\nredis_version=10.20.30"));
    CHECK(strcmp(changed_to("[redis a]\nnodes=h1\npassword=second\nredis_version=7.0.1"), "redis_version 10.20.30|7.0.1 password ******|****** ") == 0);
    CHECK(strcmp(changed_to("[redis a]\nnodes=h1\nredis_version=7.0.1"), "password ******| ") == 0);
    CHECK(strcmp(changed_to("[puerta]\ncommand = a.b first\n[redis a]\nnodes=h1\nredis_version=7.0.1"), "command |a.b ") == 0);
    CHECK(strcmp(changed_to("[puerta]\ncommand = a.b first read\n[redis a]\nnodes=h1\nredis_version=7.0.1"), "command a.b|a.b ") == 0);
    unit_note = "weights and users";
    snprintf(users, sizeof users, "[mongo a]\nmode=pooled\nmongos=h1, h2*3\nuser = anna %s\nuser = b %s\n", keys, keys);
    CHECK(reads("[mongo a]\nmode=pooled\nmongos=h1*2\n"));
    CHECK(strcmp(changed_to(users), "mongos h1:27017*2|h1:27017, h2:27017*3 user |anna, b ") == 0);
    CHECK(strcmp(changed_to("[mongo a]\nmode=pooled\nmongos=h1, h2\n"), "mongos h1:27017, h2:27017*3|h1:27017, h2:27017 user anna, b| ") == 0);
}

/* What is copied is the same, whatever else stands there. */
static void test_copy(void)
{
    unit_note = "every live option is copied";
    CHECK(reads("[puerta]\nlog_level=debug\nstop_timeout=7s\n[redis a]\nnodes=h1,h2\npassword=x\nclient_idle=7s\nallow_admin=yes\nclient_window=2m\nannounce=h:1"));
    other = conf;
    CHECK(reads("[redis a]\nnodes=h7"));
    for (size_t i = 0; i < option_count; i++) {
        const struct option *o = &options[i];
        void *to = o->scope == PROCESS ? (void *)&other : (void *)&other.services[0];
        const void *from = o->scope == PROCESS ? (void *)&conf : (void *)&conf.services[0];
        if (!o->live || o->scope == MONGO)
            continue;
        option_copy(o, to, from);
        unit_note = o->key;
        CHECK(option_same(o, to, from));
    }
    CHECK(strcmp(differences(), "") == 0);
}

static void test_complaints(void)
{
    static const char bad[] = "[redis a]\nnodes=h\nbogus=1\nbogus=1\nbogus=1\nbogus=1\nbogus=1\n";
    char said[256] = "";

    unit_note = "complaints as text";
    write_file(file, bad, strlen(bad));
    catch_begin(STDERR_FILENO);
    conf_complaints(said, sizeof said);
    CHECK(!conf_read(&conf, file));
    conf_complaints(NULL, 0);
    catch_end();
    CHECK(caught[0] == '\0' && strncmp(said, file, strlen(file)) == 0 && strstr(said, ":3: no such key: 'bogus'; ") != NULL);
    CHECK(strlen(said) == sizeof said - 1); /* cut, as there was no more room */
    CHECK(!reads("[redis a]\nnodes=h\nbogus=1\n") && strstr(caught, ":3: no such key: 'bogus'; ") != NULL);
}

int main(int argc, char **argv)
{
    const char *example = argc > 1 ? argv[1] : "puerta.conf.example";

    if (mkdtemp(folder) == NULL) {
        printf("no temporary folder\n");
        return 1;
    }
    snprintf(file, sizeof file, "%s/puerta.conf", folder);
    snprintf(secret, sizeof secret, "%s/secret", folder);
    test_defaults();
    test_values();
    test_lists();
    test_commands();
    test_secret_file();
    test_mongo_login();
    test_mongo_users();
    test_mongo_refused();
    test_refused();
    test_refused_bytes();
    test_secrets_hidden();
    test_quick();
    test_report();
    test_help();
    test_two();
    test_copy();
    test_complaints();
    test_example(example);
    test_mutations(example);
    unlink(file);
    unlink(secret);
    rmdir(folder);
    return unit_end();
}
