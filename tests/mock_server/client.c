/* What the kernel and a minimum of code cost: the measure for any other client.
 *
 *     client PORT CONCURRENCY REQUESTS TOKENS CPU PATH     prints a line a request: seed, sent, first byte, end (ns)
 *                                                          and at last: cpu_s wall_s pieces
 *
 * It stamps each piece as it arrives and looks at its last bytes for the end, and does nothing else.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

typedef struct {
    int64_t seed, sent, first;
    int64_t *stamps;
    int n;
} User;

static int tokens, asked, requests;
static const char *path;

static void ask(User *user, int fd) {
    char body[128], message[512];
    int size = sprintf(body, "{\"model\":\"gpt-oss-20b-mxfp4\",\"prompt\":\"a\",\"stream\":true,\"n_predict\":%d,\"seed\":%d}", tokens, asked);
    int used = sprintf(message, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", path, size, body);
    user->seed = asked++;
    user->first = user->n = 0;
    user->sent = now_ns(CLOCK_MONOTONIC);
    if (send(fd, message, used, 0) != used) exit(1);
}

int main(int argc, char **argv) {
    if (argc < 7) return 2;
    int concurrency = atoi(argv[2]), cpu = atoi(argv[5]), one = 1, done = 0, pieces = 0;
    requests = atoi(argv[3]);
    tokens = atoi(argv[4]);
    path = argv[6];
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    setpriority(PRIO_PROCESS, 0, -5);  /* as the processes that send have it, where it may */
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    User *users = calloc(65536, sizeof *users);
    int64_t *table = malloc((size_t)requests * 4 * sizeof *table);
    char *buffer = malloc(1 << 18);
    int epoll = epoll_create1(0);
    int64_t begun = now_ns(CLOCK_MONOTONIC), cpu_begun = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < concurrency && asked < requests; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address)) return 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        users[fd].stamps = malloc((tokens + 16) * sizeof(int64_t));
        ask(&users[fd], fd);
    }
    struct epoll_event events[256];
    while (done < requests) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            User *user = &users[fd];
            ssize_t got = recv(fd, buffer, 1 << 18, 0);
            int64_t now = now_ns(CLOCK_MONOTONIC);
            if (got <= 0) return 1;
            if (user->n < tokens + 16) user->stamps[user->n++] = now;
            pieces++;
            if (!user->first) user->first = now;
            if (got >= 5 && memcmp(buffer + got - 5, "0\r\n\r\n", 5) == 0) {
                int64_t row[4] = {user->seed, user->sent, user->first, now};
                memcpy(table + 4 * done++, row, sizeof row);
                if (asked < requests) ask(user, fd);
            }
        }
    }
    double cpu_s = (now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_begun) / 1e9;
    double wall_s = (now_ns(CLOCK_MONOTONIC) - begun) / 1e9;
    for (int i = 0; i < requests; i++) {
        int64_t *row = table + 4 * i;
        printf("%lld %lld %lld %lld\n", (long long)row[0], (long long)row[1], (long long)row[2], (long long)row[3]);
    }
    printf("%.6f %.6f %d\n", cpu_s, wall_s, pieces);
    return 0;
}
