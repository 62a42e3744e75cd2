/* test_metrics.c - the text of /metrics by the rules of its format: lines, heads, labels, histograms; and the same in pieces of any size. */
#include "metrics.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_CAP 400000
#define LINES_MAX 4000
#define FAMILIES_MAX 400

static char text[TEXT_CAP + 1], again[TEXT_CAP + 1];
static struct conf conf;
static struct service services[2];

static void ignored(struct backend *b) { (void)b; }
static bool unused(const struct backend *b) { (void)b; return false; }
static void facts(const struct backend *b, struct backend_facts *out) { out->connections = 2u + b->index; }
static const struct probe_talk talk = { ignored, ignored, ignored, ignored, ignored };
static const struct service_ops ops = { .talk = &talk, .on_backend = ignored, .in_use = unused, .describe = facts };

static void set_node(struct conf_service *s, const char *host, uint16_t port)
{
    struct host_port *n = &s->nodes[s->node_count++];
    snprintf(n->host, sizeof n->host, "%s", host);
    n->port = port;
}

static void set_up(void)
{
    conf.max_backends = 16;
    conf.max_clients = 4;
    conf.service_count = 2;
    snprintf(conf.services[0].name, NAME_CAP, "main");
    set_node(&conf.services[0], "127.0.0.1", 7001);
    set_node(&conf.services[0], "127.0.0.1", 7002);
    set_node(&conf.services[0], "/run/a \"quoted\\path\" \xc3\xa9", 0);
    conf.services[1].kind = SERVICE_MONGO;
    snprintf(conf.services[1].name, NAME_CAP, "main");
    set_node(&conf.services[1], "127.0.0.1", 7001);
    for (int real = 0; real < 2; real++) {
        if (real) {
            CHECK(arena_obtain(false));
        } else {
            arena_measure();
        }
        loop_tables(&conf);
        buf_tables(&conf);
        conn_tables(&conf);
        stats_tables(&conf);
        health_tables(&conf);
    }
    loop_open();
    buf_open();
    conn_open_table();
    command_init();
    for (int i = 0; i < 2; i++) {
        health_open(&services[i], &conf.services[i], &ops);
    }
}

/* A text in pieces of at most cap bytes. */
static size_t render(char *out, size_t cap)
{
    static struct metrics_at at;
    size_t len = 0, n;
    memset(&at, 0, sizeof at);
    while ((n = metrics_write(&at, out + len, cap < TEXT_CAP - len ? cap : TEXT_CAP - len)) > 0) {
        CHECK(n <= cap && out[len + n - 1] == '\n');
        len += n;
    }
    out[len] = '\0';
    return len;
}

/* What passes between two renderings. */
static void without_time(char *p)
{
    p = strstr(p, "\npuerta_cpu_seconds_total ");
    for (p = p == NULL ? NULL : p + 26; p != NULL && *p != '\n'; p++) {
        *p = '0';
    }
}

static size_t name_length(const char *p)
{
    size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:0123456789");
    return n > 0 && (*p < '0' || *p > '9') ? n : 0;
}

/* {NAME="VALUE",...}: its length; 0: it is none. */
static size_t labels_length(const char *begin)
{
    const char *p = begin + 1;
    size_t n;
    while ((n = name_length(p)) > 0 && strncmp(p + n, "=\"", 2) == 0) {
        for (p += n + 2; *p != '"' && *p != '\n' && *p != '\0'; p++) {
            if (*p == '\\' && strchr("\\\"n", *++p) == NULL) {
                return 0;
            }
            if ((unsigned char)*p >= 0x80) {
                return 0; /* what is not UTF-8 is malformed, and nothing here has a reason to be more than ASCII */
            }
        }
        if (*p++ != '"') {
            return 0;
        }
        if (*p == '}') {
            return (size_t)(p + 1 - begin);
        }
        if (*p++ != ',') {
            return 0;
        }
    }
    return 0;
}

/* A sample: the length of its name, and of name and labels. 0: it is none. */
static size_t sample(const char *p, size_t *series)
{
    size_t name = name_length(p);
    char *end;
    *series = name;
    if (p[name] == '{') {
        size_t n = labels_length(p + name);
        if (n == 0) {
            return 0;
        }
        *series += n;
    }
    if (name == 0 || p[*series] != ' ') {
        return 0;
    }
    (void)strtod(p + *series + 1, &end);
    return *end == '\n' ? name : 0;
}

static bool belongs(const char *name, size_t n, const char *family, const char *type)
{
    static const char *const ends[] = { "_bucket", "_sum", "_count" };
    size_t len = strlen(family);
    if (n < len || strncmp(name, family, len) != 0) {
        return false;
    }
    for (int i = 0; i < 3 && strcmp(type, "histogram") == 0; i++) {
        if (strlen(ends[i]) == n - len && strncmp(name + len, ends[i], n - len) == 0) {
            return true;
        }
    }
    return n == len && strcmp(type, "histogram") != 0;
}

/* Each line is what the format allows, where it allows it. */
static void check_lines(char *p)
{
    static const char *seen[LINES_MAX];
    static size_t seen_len[LINES_MAX];
    static char told[FAMILIES_MAX][128];
    char family[128] = "", type[16] = "";
    int count = 0, families = 0, samples = 0;
    for (char *next; *p != '\0'; p = next) {
        char help[128] = "";
        size_t n, series;
        next = strchr(p, '\n') + 1;
        if (strncmp(p, "# HELP ", 7) == 0) {
            CHECK(sscanf(p + 7, "%127s", family) == 1 && name_length(family) == strlen(family));
            for (int i = 0; i < families; i++) { /* no group comes twice */
                CHECK(strcmp(told[i], family) != 0);
            }
            continue;
        }
        if (strncmp(p, "# TYPE ", 7) == 0) {
            CHECK(sscanf(p + 7, "%127s %15s", help, type) == 2);
            CHECK(strcmp(help, family) == 0); /* HELP stands right before it */
            CHECK(strcmp(type, "counter") == 0 || strcmp(type, "gauge") == 0 || strcmp(type, "histogram") == 0);
            n = strlen(family);
            CHECK((n > 6 && strcmp(family + n - 6, "_total") == 0) == (strcmp(type, "counter") == 0));
            if (CHECK(families < FAMILIES_MAX)) {
                snprintf(told[families++], sizeof told[0], "%s", family);
            }
            continue;
        }
        unit_note = p;
        n = sample(p, &series);
        if (!CHECK(n > 0 && belongs(p, n, family, type)) || !CHECK(count < LINES_MAX)) {
            return;
        }
        samples++;
        for (int i = 0; i < count; i++) {
            CHECK(seen_len[i] != series || strncmp(seen[i], p, series) != 0);
        }
        seen[count] = p;
        seen_len[count++] = series;
    }
    unit_note = "";
    CHECK(families > 60 && samples > families);
}

static double value_of(const char *series)
{
    char *at = strstr(text, series);
    return at == NULL ? -1 : strtod(at + strlen(series), NULL);
}

static void check_histogram(void)
{
    static const char first[] = "puerta_backend_response_seconds_bucket{kind=\"redis\",section=\"main\",backend=\"127.0.0.1:7001\",le=\"";
    const char *p = text;
    double before = 0, edge = 0, all = 0;
    int buckets = 0;
    while ((p = strstr(p, first)) != NULL) {
        double le = strncmp(p + sizeof first - 1, "+Inf", 4) == 0 ? 1e9 : strtod(p + sizeof first - 1, NULL);
        CHECK(le > edge);
        edge = le;
        p = strstr(p, "} ") + 2;
        all = strtod(p, NULL);
        CHECK(all >= before);
        before = all;
        buckets++;
    }
    CHECK(buckets == LATENCY_BUCKETS && edge == 1e9);
    CHECK(all == 5);
    CHECK(value_of("puerta_backend_response_seconds_count{kind=\"redis\",section=\"main\",backend=\"127.0.0.1:7001\"} ") == 5);
    CHECK(value_of("puerta_backend_response_seconds_sum{kind=\"redis\",section=\"main\",backend=\"127.0.0.1:7001\"} ") == 20.000171);
    CHECK(value_of("127.0.0.1:7001\",le=\"0.000064\"} ") == 3);
    CHECK(value_of("127.0.0.1:7001\",le=\"0.000128\"} ") == 4);
    CHECK(value_of("127.0.0.1:7001\",le=\"4.194304\"} ") == 4);
}

static void check_values(void)
{
    CHECK(value_of("\npuerta_section_backends{kind=\"redis\",section=\"main\"} ") == 3);
    CHECK(value_of("\npuerta_section_backends{kind=\"mongo\",section=\"main\"} ") == 1);
    CHECK(value_of("\npuerta_backend_connections{kind=\"redis\",section=\"main\",backend=\"127.0.0.1:7002\"} ") == 3);
    CHECK(value_of("\npuerta_backend_state{kind=\"redis\",section=\"main\",backend=\"127.0.0.1:7002\",state=\"new\"} ") == 1);
    CHECK(value_of("\npuerta_backend_state{kind=\"redis\",section=\"main\",backend=\"127.0.0.1:7002\",state=\"down\"} ") == 0);
    CHECK(value_of("\npuerta_backend_up{kind=\"redis\",section=\"main\",backend=\"/run/a \\\"quoted\\\\path\\\" ??:0\"} ") == 0);
    CHECK(value_of("\npuerta_table_entries{table=\"chunks\"} ") == 7);
    CHECK(value_of("\npuerta_table_entries_high{table=\"chunks\"} ") == 9);
    CHECK(value_of("\npuerta_table_entries_max{table=\"chunks\"} ") == 10);
    CHECK(value_of("\npuerta_table_entries{table=\"leases\"} ") == -1); /* a table that is not there */
    CHECK(value_of("\npuerta_commands_total{kind=\"redis\",class=\"read\"} ") == 11);
    CHECK(value_of("\npuerta_commands_total{kind=\"redis\",class=\"write\"} ") == 3);
    CHECK(value_of("\npuerta_commands_total{kind=\"mongo\",class=\"other\"} ") == 4);
    CHECK(value_of("\npuerta_errors_total{error=\"WRONGPASS\"} ") == 2);
    CHECK(value_of("\npuerta_bytes_in_total ") == 123456789012.0);
    CHECK(strstr(text, "\xc3") == NULL);
}

int main(void)
{
    char name[METRICS_NAME];
    const char *type, *help;
    size_t len, cut;
    uint32_t i = 0;
    set_up();
    stats_latency(0, 64), stats_latency(0, 7), stats_latency(0, 65), stats_latency(0, 35), stats_latency(0, 20000000);
    gauges.chunks.most = 10;
    gauge_set(&gauges.chunks, 9);
    gauge_set(&gauges.chunks, 7);
    stats_command(command_find((const unsigned char *)"GET", 3))->calls = 11;
    stats_command(command_find((const unsigned char *)"SET", 3))->calls = 3;
    stats_mongo[STATS_OTHER] = 4;
    stats_error("-WRONGPASS no", 13), stats_error("-WRONGPASS no", 13), stats_error("-\xc3\xa4 no", 6);
    stats.bytes_in = 123456789012;
    len = render(text, TEXT_CAP);
    check_lines(text);
    check_histogram();
    check_values();
    without_time(text);
    for (cut = METRICS_ROOM; cut < METRICS_ROOM + 700; cut += 1 + cut % 3) {
        size_t n = render(again, cut);
        without_time(again);
        CHECK(n == len && memcmp(text, again, len) == 0);
    }
    while (metrics_row(i, name, &type, &help)) {
        snprintf(again, sizeof again, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
        unit_note = again;
        CHECK(strstr(text, again) != NULL);
        CHECK(strpbrk(help, "\\\n") == NULL && *help >= '1' && help[strlen(help) - 1] != '.');
        i++;
    }
    return unit_end();
}
