/* A server with an exact schedule: the first token so long after the request, the others so long after one another.
 *
 *     server TTFT_US ITL_US CPU LOG [close] [slots=N]      prints its port, serves until it is killed
 *
 * POST /completion answers as llama-server does, /v1/chat/completions as OpenAI's API with llama-server's timings.
 * The body names the number of tokens ("n_predict" or "max_tokens") and the request ("seed"). Every token is a send
 * of its own; without delays they follow one another as fast as the sockets take them. No machine keeps a schedule
 * exactly, so what was achieved is told: in the timings of the last event, and of each token in LOG, as records of
 * 64-bit integers: seed, n, moment of the request, moments of n tokens (ns, CLOCK_MONOTONIC).
 * With "close", a connection ends with its answer, as llama-server's do. With "slots=N" it says what it is, as a
 * llama-server with so many slots, and works on no more requests at a time: others wait for a free one in their order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 8192, IN_SIZE = 1 << 20, OUT_SIZE = 4096 };

typedef struct {
    char *in;
    size_t in_used;
    char out[OUT_SIZE];  /* what the socket did not take */
    size_t out_used;
    int active, chat, sent, tokens, position;
    int64_t seed, received, due;
    int64_t *moments;
    int capacity;
} Stream;

static Stream streams[MAX_FD];
static int order[MAX_FD], n_order;  /* active streams */
static int queue[MAX_FD], n_queue;  /* streams that wait for a slot */
static int64_t ttft_ns, itl_ns;
static int closes, slots, epoll, timer;
static FILE *log_file;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void start(int fd) {
    Stream *s = &streams[fd];
    s->due = (slots ? now_ns() : s->received) + ttft_ns;
    s->active = 1;
    s->position = n_order;
    order[n_order++] = fd;
}

static void stop(int fd) {
    Stream *s = &streams[fd];
    int last = order[--n_order];
    order[s->position] = last;
    streams[last].position = s->position;
    s->active = 0;
    if (n_queue) {
        start(queue[0]);
        memmove(queue, queue + 1, --n_queue * sizeof *queue);
    }
}

static void drop(int fd) {
    if (streams[fd].active) stop(fd);
    for (int i = 0; i < n_queue; i++)
        if (queue[i] == fd) memmove(queue + i, queue + i + 1, (--n_queue - i) * sizeof *queue);
    close(fd);
}

static long number_after(const char *body, const char *name, long otherwise) {
    const char *at = strstr(body, name);
    if (!at) return otherwise;
    at += strlen(name);
    while (*at == '"' || *at == ':' || *at == ' ') at++;
    return atol(at);
}

/* 0: all is on its way, -1: the rest waits, -2: the connection is lost */
static int put(int fd, const char *data, size_t size) {
    Stream *s = &streams[fd];
    ssize_t done = send(fd, data, size, MSG_NOSIGNAL);
    if (done == (ssize_t)size) return 0;
    if (done < 0 && errno != EAGAIN) return -2;
    if (done < 0) done = 0;
    memcpy(s->out + s->out_used, data + done, size - done);
    s->out_used += size - done;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    return -1;
}

static int chunk(char *out, const char *body, int size) { return sprintf(out, "%x\r\n%.*s\r\n", size, size, body); }

/* An event of a chat with what llama-server says in each of them; "choices" and whatever follows are the message's. */
static int chat_event(char *out, const char *choices, const char *more) {
    return sprintf(out, "data: {\"choices\":[%s],\"created\":1795391692,\"id\":\"chatcmpl-h7zqJvVcwFADC6jOu1XN8hcTgSAN9oIi\","
                   "\"model\":\"gpt-oss-20b-mxfp4\",\"system_fingerprint\":\"b9870-0fbbb3ec6\","
                   "\"object\":\"chat.completion.chunk\"%s}\n\n", choices, more);
}

static int token(const Stream *s, char *out) {
    char body[1024];
    int size = 0;
    if (!s->chat) {
        size = sprintf(body, "data: {\"index\":0,\"content\":\" a\",\"tokens\":[5],\"stop\":false,\"id_slot\":-1,"
                       "\"tokens_predicted\":%d,\"tokens_evaluated\":1}\n\n", s->sent + 1);
        return chunk(out, body, size);
    }
    if (s->sent == 0)  /* the role comes together with the first token */
        size = chat_event(body, "{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}", "");
    size += chat_event(body + size, "{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" a\"}}", "");
    return chunk(out, body, size);
}

static int finale(const Stream *s, char *out) {
    char body[2048], more[512];
    double prompt_ms = (s->moments[0] - s->received) / 1e6;
    double predicted_ms = (s->moments[s->tokens - 1] - s->moments[0]) / 1e6;
    int size = sprintf(more, ",\"usage\":{\"completion_tokens\":%d,\"prompt_tokens\":1,\"total_tokens\":%d},", s->tokens, s->tokens + 1);
    const char *timings = more + size;  /* after the usage, which completions do not have */
    sprintf(more + size, "\"timings\":{\"cache_n\":0,\"prompt_n\":1,\"prompt_ms\":%.6f,\"predicted_n\":%d,\"predicted_ms\":%.6f}",
            prompt_ms, s->tokens, predicted_ms);
    if (s->chat) {
        size = chat_event(body, "{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}", "");
        size += chat_event(body + size, "", more);
        size += sprintf(body + size, "data: [DONE]\n\n");
    } else {
        size = sprintf(body, "data: {\"index\":0,\"content\":\"\",\"tokens\":[],\"stop\":true,\"stop_type\":\"limit\","
                       "\"tokens_predicted\":%d,\"tokens_evaluated\":1,%s}\n\n", s->tokens, timings);
    }
    int used = chunk(out, body, size);
    return used + sprintf(out + used, "0\r\n\r\n");
}

/* What it is; 0 where the path has nothing to say. */
static int description(const char *head, char *out) {
    char body[512];
    int size = 0;
    if (!slots) return 0;
    if (strncmp(head, "GET /health ", 12) == 0)
        size = sprintf(body, "{\"status\":\"ok\"}");
    else if (strncmp(head, "GET /v1/models ", 15) == 0)
        size = sprintf(body, "{\"object\":\"list\",\"data\":[{\"id\":\"gpt-oss-20b-mxfp4\",\"owned_by\":\"llamacpp\",\"meta\":"
                       "{\"n_params\":1000,\"n_ctx_train\":8192,\"size\":1000}}]}");
    else if (strncmp(head, "GET /props ", 11) == 0)
        size = sprintf(body, "{\"total_slots\":%d,\"build_info\":\"b9870-0fbbb3ec6\",\"model_path\":\"/mock.gguf\","
                       "\"default_generation_settings\":{\"n_ctx\":8192}}", slots);
    return size ? sprintf(out, "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json\r\n"
                          "Content-Length: %d\r\n\r\n%s", size, body) : 0;
}

static void begin(int fd, const char *head, const char *body) {
    Stream *s = &streams[fd];
    char told[1024];
    int size = description(head, told);
    if (size) {
        put(fd, told, size);
        return;
    }
    s->received = now_ns();
    s->chat = strncmp(head, "POST /v1/chat/completions ", 26) == 0;
    if (!s->chat && strncmp(head, "POST /completion ", 17) != 0) {
        static const char none[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        put(fd, none, sizeof none - 1);
        return;
    }
    s->tokens = (int)number_after(body, "\"n_predict\"", number_after(body, "\"max_tokens\"", 16));
    if (s->tokens < 1) s->tokens = 1;
    s->seed = number_after(body, "\"seed\"", -1);
    if (s->tokens > s->capacity) {
        s->capacity = s->tokens;
        s->moments = realloc(s->moments, s->capacity * sizeof *s->moments);
    }
    s->sent = 0;
    if (slots && n_order >= slots)
        queue[n_queue++] = fd;
    else
        start(fd);
}

/* One token of a stream that is due. */
static void advance(int fd) {
    Stream *s = &streams[fd];
    char out[OUT_SIZE];
    int used = 0;
    if (s->sent == 0)
        used = sprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    used += token(s, out + used);
    s->moments[s->sent++] = now_ns();
    s->due += itl_ns;
    int state = put(fd, out, used);
    if (state == -2) {
        drop(fd);
        return;
    }
    if (s->sent < s->tokens) return;
    used = finale(s, out);
    if (s->out_used) {
        memcpy(s->out + s->out_used, out, used);
        s->out_used += used;
    } else {
        put(fd, out, used);
    }
    if (log_file) {
        int64_t head[3] = {s->seed, s->tokens, s->received};
        fwrite(head, sizeof *head, 3, log_file);
        fwrite(s->moments, sizeof *s->moments, s->tokens, log_file);
    }
    stop(fd);
    if (closes) {
        if (s->out_used) return;  /* closed when that is sent */
        shutdown(fd, SHUT_WR);
    }
}

static void readable(int fd) {
    Stream *s = &streams[fd];
    for (;;) {
        ssize_t got = recv(fd, s->in + s->in_used, IN_SIZE - 1 - s->in_used, 0);
        if (got < 0 && errno == EAGAIN) break;
        if (got <= 0) {
            drop(fd);
            return;
        }
        s->in_used += got;
        s->in[s->in_used] = 0;
    }
    char *end = strstr(s->in, "\r\n\r\n");
    if (!end || s->active) return;
    const char *length = strcasestr(s->in, "content-length:");
    size_t size = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
    size_t whole = end + 4 - s->in + size;
    if (s->in_used < whole) return;
    begin(fd, s->in, end + 4);
    s->in_used = 0;
}

static void writable(int fd) {
    Stream *s = &streams[fd];
    ssize_t done = send(fd, s->out, s->out_used, MSG_NOSIGNAL);
    if (done < 0) {
        if (errno != EAGAIN) drop(fd);
        return;
    }
    memmove(s->out, s->out + done, s->out_used - done);
    s->out_used -= done;
    if (s->out_used) return;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    if (closes && !s->active) shutdown(fd, SHUT_WR);
}

static void finish(int number) {
    (void)number;
    if (log_file) fflush(log_file);
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: server TTFT_US ITL_US CPU LOG [close] [slots=N]\n");
        return 2;
    }
    ttft_ns = atoll(argv[1]) * 1000;
    itl_ns = atoll(argv[2]) * 1000;
    int cpu = atoi(argv[3]);
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    log_file = *argv[4] ? fopen(argv[4], "wb") : NULL;
    for (int i = 5; i < argc; i++)
        if (strncmp(argv[i], "slots=", 6) == 0)
            slots = atoi(argv[i] + 6);
        else
            closes = 1;
    signal(SIGTERM, finish);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = timer;
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event);
    for (;;) {
        int64_t now = now_ns(), next = INT64_MAX;
        int ready = 0;
        for (int i = n_order - 1; i >= 0; i--) {
            Stream *s = &streams[order[i]];
            if (s->out_used) continue;  /* the client is slower: what the socket takes decides */
            if (s->due <= now) ready = 1;
            if (s->due < next) next = s->due;
        }
        if (!ready && next != INT64_MAX) {
            struct itimerspec at = {.it_value = {next / 1000000000, next % 1000000000}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        }
        int count = epoll_wait(epoll, events, 512, ready ? 0 : -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == timer) {
                uint64_t times;
                if (read(timer, &times, sizeof times) < 0) continue;
            } else if (fd == listener) {
                int new;
                while ((new = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (new >= MAX_FD) {
                        close(new);
                        continue;
                    }
                    setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    Stream *s = &streams[new];
                    if (!s->in) s->in = malloc(IN_SIZE);
                    s->in_used = s->out_used = 0;
                    s->active = 0;
                    event.events = EPOLLIN;
                    event.data.fd = new;
                    epoll_ctl(epoll, EPOLL_CTL_ADD, new, &event);
                }
            } else {
                if (events[i].events & EPOLLOUT) writable(fd);
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(fd);
            }
        }
        now = now_ns();
        for (int i = n_order - 1; i >= 0; i--) {
            int fd = order[i];
            if (!streams[fd].out_used && streams[fd].due <= now) advance(fd);
        }
    }
}
