/* Thin links in one process: a switch between TAP devices.
 *
 *     netns_link PREFIX DELAY_MS QUEUE_MS LOSS PORT...      PORT = UP_MBIT:DOWN_MBIT[:OWN_DELAY_MS]
 *
 * Makes the devices PREFIX0, PREFIX1, ... and prints READY. A frame that a device sends goes through
 * the uplink of its port (rate, queue), takes the delay and its port's own, and leaves by the
 * downlink of the port that its destination address names, whose own delay it takes, too:
 * 02:00:00:00:HH:LL is port HH * 256 + LL; a group address is for all others. What would wait longer
 * than the queue allows is dropped, as a tail-drop router does; LOSS is the probability that a frame
 * is dropped without reason.
 *
 * Lines of standard input change what passes, and each is answered with OK:
 *
 *     cut N...        nothing passes between these ports and the others, until `heal`
 *     mute N...       nothing passes from these ports to the others, until `heal`
 *     heal            ends cuts
 *     loss P          the probability from now on
 *     counts          prints the counts first
 *
 * At the end of its input, and on SIGTERM, it prints, for each port, its number, bytes sent, bytes
 * received, and frames dropped in either queue, and ends: with whoever started it, its links go.
 *
 * Every stage is first in, first out, so the frames of one stage of one port wait in one ring, and
 * the next event is the earliest of the rings' heads.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PORTS_MAX = 512, FRAME_MAX = 2048, READS_MAX = 32, LINE_MAX_BYTES = 4096 };

struct frame {
    struct frame *next;
    int64_t due_ns; /* when it leaves this stage */
    int port;       /* whom it is for */
    int length;
    unsigned char bytes[];
};

struct ring {
    struct frame *head, *tail;
};

struct port {
    int fd;
    double up_ns_per_byte, down_ns_per_byte;
    int64_t up_free_ns, down_free_ns, own_delay_ns;
    int is_apart; /* on the other side of a cut */
    struct ring under_way, arriving; /* behind the uplink; behind the downlink */
    uint64_t sent_bytes, received_bytes, up_drops, down_drops;
};

static struct port ports[PORTS_MAX];
static int port_count;
static int64_t delay_ns, queue_ns;
static uint32_t loss_below; /* of 2^32 */
static int is_one_way; /* the cut stops only what the ports apart send */
static volatile sig_atomic_t is_over;

static void on_signal(int number) {
    (void)number;
    is_over = 1;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void append(struct ring *ring, struct frame *frame) {
    frame->next = NULL;
    if (ring->head == NULL)
        ring->head = frame;
    else
        ring->tail->next = frame;
    ring->tail = frame;
}

static struct frame *take(struct ring *ring) {
    struct frame *frame = ring->head;
    ring->head = frame->next;
    return frame;
}

static int is_lost(void) {
    static uint64_t state = 88172645463325252u; /* xorshift64: the same losses in every run */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) < loss_below;
}

/* A frame enters a rate-limited queue: when it is through, or -1 where the queue is full. */
static int64_t enter(int64_t *free_ns, double ns_per_byte, int length, int64_t now) {
    if (*free_ns - now > queue_ns)
        return -1;
    *free_ns = (*free_ns > now ? *free_ns : now) + (int64_t)(length * ns_per_byte);
    return *free_ns;
}

static void send_to(struct port *from, int target, const unsigned char *bytes, int length,
                    int64_t due_ns) {
    struct frame *frame = malloc(sizeof *frame + (size_t)length);
    if (frame == NULL)
        fail("malloc");
    frame->due_ns = due_ns;
    frame->port = target;
    frame->length = length;
    memcpy(frame->bytes, bytes, (size_t)length);
    append(&from->under_way, frame);
}

static void read_port(int number, int64_t now) {
    struct port *port = &ports[number];
    unsigned char bytes[FRAME_MAX];
    for (int count = 0; count < READS_MAX; count++) {
        int length = (int)read(port->fd, bytes, sizeof bytes);
        if (length < 14)
            return;
        int64_t left_ns = enter(&port->up_free_ns, port->up_ns_per_byte, length, now);
        if (left_ns < 0) {
            port->up_drops++;
            continue;
        }
        port->sent_bytes += (uint64_t)length;
        if (is_lost())
            continue;
        int target = bytes[4] * 256 + bytes[5];
        int64_t due_ns = left_ns + delay_ns + port->own_delay_ns;
        if (!(bytes[0] & 1)) {
            if (target < port_count && target != number)
                send_to(port, target, bytes, length, due_ns);
            continue;
        }
        for (target = 0; target < port_count; target++)
            if (target != number)
                send_to(port, target, bytes, length, due_ns);
    }
}

static int is_cut(const struct port *from, const struct port *to) {
    return is_one_way ? from->is_apart && !to->is_apart : from->is_apart != to->is_apart;
}

static void arrive(const struct port *from, struct frame *frame) {
    struct port *port = &ports[frame->port];
    if (is_cut(from, port)) {
        free(frame);
        return;
    }
    int64_t through_ns =
        enter(&port->down_free_ns, port->down_ns_per_byte, frame->length, frame->due_ns);
    if (through_ns < 0) {
        port->down_drops++;
        free(frame);
        return;
    }
    frame->due_ns = through_ns + port->own_delay_ns;
    append(&port->arriving, frame);
}

static void deliver(struct frame *frame) {
    struct port *port = &ports[frame->port];
    if (write(port->fd, frame->bytes, (size_t)frame->length) == frame->length)
        port->received_bytes += (uint64_t)frame->length;
    free(frame);
}

/* Moves on what is due; returns when the next frame will be, or -1 where none waits. */
static int64_t advance(int64_t now) {
    int64_t next_ns;
    int moved;
    do {
        next_ns = -1;
        moved = 0;
        for (int number = 0; number < port_count; number++) {
            struct port *port = &ports[number];
            struct frame *head;
            while ((head = port->under_way.head) != NULL && head->due_ns <= now) {
                arrive(port, take(&port->under_way));
                moved = 1;
            }
            if (head != NULL && (next_ns < 0 || head->due_ns < next_ns))
                next_ns = head->due_ns;
            while ((head = port->arriving.head) != NULL && head->due_ns <= now)
                deliver(take(&port->arriving));
            if (head != NULL && (next_ns < 0 || head->due_ns < next_ns))
                next_ns = head->due_ns;
        }
    } while (moved);
    return next_ns;
}

static void open_port(int number, const char *prefix, const char *rates) {
    struct port *port = &ports[number];
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    double up_mbit, down_mbit, own_ms = 0;
    if (sscanf(rates, "%lf:%lf:%lf", &up_mbit, &down_mbit, &own_ms) < 2 || up_mbit <= 0 ||
        down_mbit <= 0) {
        fprintf(stderr, "no rates: %s\n", rates);
        exit(2);
    }
    port->up_ns_per_byte = 8000.0 / up_mbit;
    port->down_ns_per_byte = 8000.0 / down_mbit;
    port->own_delay_ns = (int64_t)(own_ms * 1e6);
    snprintf(request.ifr_name, IFNAMSIZ, "%s%d", prefix, number);
    port->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (port->fd < 0 || ioctl(port->fd, TUNSETIFF, &request) < 0)
        fail("tap device");
}

static void print_counts(void) {
    for (int number = 0; number < port_count; number++) {
        struct port *port = &ports[number];
        printf("%d %llu %llu %llu %llu\n", number, (unsigned long long)port->sent_bytes,
               (unsigned long long)port->received_bytes, (unsigned long long)port->up_drops,
               (unsigned long long)port->down_drops);
    }
}

static void obey(char *line) {
    char *word = strtok(line, " "), *value;
    if (word == NULL)
        return;
    if (strcmp(word, "loss") == 0 && (value = strtok(NULL, " ")) != NULL)
        loss_below = (uint32_t)(atof(value) * 4294967295.0);
    if (strcmp(word, "cut") == 0 || strcmp(word, "mute") == 0 || strcmp(word, "heal") == 0) {
        is_one_way = word[0] == 'm';
        for (int number = 0; number < port_count; number++)
            ports[number].is_apart = 0;
        while ((value = strtok(NULL, " ")) != NULL)
            if (atoi(value) >= 0 && atoi(value) < port_count)
                ports[atoi(value)].is_apart = 1;
    }
    if (strcmp(word, "counts") == 0)
        print_counts();
    printf("OK\n");
    fflush(stdout);
}

/* Obeys the lines that have come; the end of the input is the end of all. */
static void read_lines(void) {
    static char text[LINE_MAX_BYTES];
    static size_t size;
    ssize_t got = read(STDIN_FILENO, text + size, sizeof text - size);
    if (got <= 0) {
        is_over = 1;
        return;
    }
    size += (size_t)got;
    char *start = text, *end;
    while ((end = memchr(start, '\n', (size_t)(text + size - start))) != NULL) {
        *end = '\0';
        obey(start);
        start = end + 1;
    }
    size = (size_t)(text + size - start);
    memmove(text, start, size);
    if (size == sizeof text)
        is_over = 1; /* no line is so long */
}

int main(int count, char **values) {
    struct pollfd waits[PORTS_MAX + 1];
    if (count < 6 || count - 5 > PORTS_MAX) {
        fprintf(stderr, "usage: netns_link PREFIX DELAY_MS QUEUE_MS LOSS UP:DOWN...\n");
        return 2;
    }
    delay_ns = (int64_t)(atof(values[2]) * 1e6);
    queue_ns = (int64_t)(atof(values[3]) * 1e6);
    loss_below = (uint32_t)(atof(values[4]) * 4294967295.0);
    port_count = count - 5;
    for (int number = 0; number < port_count; number++) {
        open_port(number, values[1], values[5 + number]);
        waits[number] = (struct pollfd){.fd = ports[number].fd, .events = POLLIN};
    }
    waits[port_count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    printf("READY\n");
    fflush(stdout);
    while (!is_over) {
        int64_t now = now_ns(), next_ns = advance(now), wait_ns = 1000000000;
        if (next_ns >= 0 && next_ns - now < wait_ns)
            wait_ns = next_ns > now ? next_ns - now : 0;
        struct timespec wait = {wait_ns / 1000000000, wait_ns % 1000000000};
        if (ppoll(waits, (nfds_t)port_count + 1, &wait, NULL) < 0 && errno != EINTR)
            fail("poll");
        now = now_ns();
        for (int number = 0; number < port_count; number++)
            if (waits[number].revents & POLLIN)
                read_port(number, now);
        if (waits[port_count].revents)
            read_lines();
    }
    print_counts();
    return 0;
}
