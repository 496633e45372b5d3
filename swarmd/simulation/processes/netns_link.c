/* Thin links in one process: a switch between TAP devices.
 *
 *     netns_link PREFIX DELAY_MS QUEUE_MS LOSS PORT...
 *
 *     PORT = UP_MBIT:DOWN_MBIT[:OWN_DELAY_MS[:JITTER_MS:LOSS:DUPLICATION:REORDER:REORDER_MS
 *            :QUEUE_MS:SITE:IS_CLOSED]]
 *
 * Makes the devices PREFIX0, PREFIX1, ... and prints READY. A frame that a device sends goes through
 * the uplink of its port (rate, queue), takes the delay and its port's own, and leaves by the
 * downlink of the port that its destination address names, whose own delay it takes, too:
 * 02:00:00:00:HH:LL is port HH * 256 + LL; a group address is for all others. What would wait longer
 * than the queue allows is dropped, as a tail-drop router does; LOSS is the probability that a frame
 * is dropped without reason.
 *
 * What a port has of its own lies between it and the middle, in both directions: jitter, uniform and
 * keeping the order; a probability that a frame is lost, comes twice, or is held back while others
 * overtake it. Between ports of one SITE (0: alone) there are rates and queues, but neither delays
 * nor any of these. To a port that is closed nobody of another site can open a connection: frames
 * with TCP's SYN and no ACK, and IPv4 other than TCP, vanish in front of it.
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
 * Frames are moved four thousand times a second at most, many at a time: each look at the devices
 * costs processor time that the nodes lack. So they are up to half a millisecond late.
 *
 * Every stage is first in, first out, so the frames of one stage of one port wait in rings, and the
 * next event is the earliest of the rings' heads. What is held back waits in a ring of its own, all
 * of it for the same time, and what has no delay in another, so that first in is first out in each.
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
enum { LOOK_NS = 250000 }; /* least time between two looks at the devices */
enum { ORDERLY, HELD, NEAR, RINGS }; /* from afar in order; held back; from its own site */

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
    int64_t jitter_ns, hold_ns, queue_ns;
    int64_t left_ns, reached_ns; /* when the last frame in order gets to the middle; arrives */
    uint32_t lost_below, twice_below, held_below; /* of 2^32 */
    int site, is_closed;
    int is_apart; /* on the other side of a cut */
    struct ring under_way[RINGS], arriving[RINGS]; /* behind the uplink; behind the downlink */
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

static uint32_t draw(void) {
    static uint64_t state = 88172645463325252u; /* xorshift64: the same chances in every run */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static int befalls(uint32_t below) {
    return below != 0 && draw() < below;
}

/* A frame enters a rate-limited queue: when it is through, or -1 where the queue is full. */
static int64_t enter(int64_t *free_ns, double ns_per_byte, int length, int64_t now,
                     int64_t longest_ns) {
    if (*free_ns - now > longest_ns)
        return -1;
    *free_ns = (*free_ns > now ? *free_ns : now) + (int64_t)(length * ns_per_byte);
    return *free_ns;
}

/* Puts a frame behind those of its stage: in order, among those that are overtaken, or near. */
static void queue(const struct port *port, struct ring *rings, int64_t *last_ns,
                  struct frame *frame, int is_near) {
    if (is_near) {
        append(&rings[NEAR], frame);
        return;
    }
    frame->due_ns += port->own_delay_ns;
    if (port->jitter_ns)
        frame->due_ns += (int64_t)(draw() / 4294967296.0 * (double)port->jitter_ns);
    if (frame->due_ns < *last_ns)
        frame->due_ns = *last_ns;
    *last_ns = frame->due_ns;
    if (befalls(port->held_below)) {
        frame->due_ns += port->hold_ns;
        append(&rings[HELD], frame);
    } else {
        append(&rings[ORDERLY], frame);
    }
}

static int is_near(const struct port *one, const struct port *other) {
    return one->site != 0 && one->site == other->site;
}

static struct frame *copy_of(int target, const unsigned char *bytes, int length, int64_t due_ns) {
    struct frame *frame = malloc(sizeof *frame + (size_t)length);
    if (frame == NULL)
        fail("malloc");
    frame->due_ns = due_ns;
    frame->port = target;
    frame->length = length;
    memcpy(frame->bytes, bytes, (size_t)length);
    return frame;
}

/* Whether a frame is one that a NAT which nobody told of it would not let in. */
static int is_call(const unsigned char *bytes, int length) {
    if (length < 34 || bytes[12] != 8 || bytes[13] != 0)
        return 0; /* no IPv4: addresses are asked for */
    int tcp = 14 + (bytes[14] & 15) * 4;
    if (bytes[23] != 6)
        return 1;
    return length > tcp + 13 && (bytes[tcp + 13] & 0x12) == 0x02;
}

static void send_to(struct port *from, int target, const unsigned char *bytes, int length,
                    int64_t left_ns) {
    const struct port *to = &ports[target];
    int near = is_near(from, to);
    if (!near && to->is_closed && is_call(bytes, length))
        return;
    if (!near && befalls(from->lost_below))
        return;
    int copies = 1 + (!near && befalls(from->twice_below));
    while (copies--) {
        struct frame *frame = copy_of(target, bytes, length, left_ns + (near ? 0 : delay_ns));
        queue(from, from->under_way, &from->left_ns, frame, near);
    }
}

static void read_port(int number, int64_t now) {
    struct port *port = &ports[number];
    unsigned char bytes[FRAME_MAX];
    for (int count = 0; count < READS_MAX; count++) {
        int length = (int)read(port->fd, bytes, sizeof bytes);
        if (length < 14)
            return;
        int64_t left_ns =
            enter(&port->up_free_ns, port->up_ns_per_byte, length, now, port->queue_ns);
        if (left_ns < 0) {
            port->up_drops++;
            continue;
        }
        port->sent_bytes += (uint64_t)length;
        if (befalls(loss_below))
            continue;
        int target = bytes[4] * 256 + bytes[5];
        if (!(bytes[0] & 1)) {
            if (target < port_count && target != number)
                send_to(port, target, bytes, length, left_ns);
            continue;
        }
        for (target = 0; target < port_count; target++)
            if (target != number)
                send_to(port, target, bytes, length, left_ns);
    }
}

static int is_cut(const struct port *from, const struct port *to) {
    return is_one_way ? from->is_apart && !to->is_apart : from->is_apart != to->is_apart;
}

/* A frame passes the downlink, whose port may lose, double and hold back what comes from afar. */
static void pass_down(struct port *port, struct frame *frame, int near) {
    int64_t through_ns = enter(&port->down_free_ns, port->down_ns_per_byte, frame->length,
                               frame->due_ns, port->queue_ns);
    if (through_ns < 0) {
        port->down_drops++;
        free(frame);
        return;
    }
    frame->due_ns = through_ns;
    queue(port, port->arriving, &port->reached_ns, frame, near);
}

static void arrive(const struct port *from, struct frame *frame) {
    struct port *port = &ports[frame->port];
    int near = is_near(from, port);
    if (is_cut(from, port) || (!near && befalls(port->lost_below))) {
        free(frame);
        return;
    }
    if (!near && befalls(port->twice_below))
        pass_down(port, copy_of(frame->port, frame->bytes, frame->length, frame->due_ns), near);
    pass_down(port, frame, near);
}

static void deliver(struct frame *frame) {
    struct port *port = &ports[frame->port];
    if (write(port->fd, frame->bytes, (size_t)frame->length) == frame->length)
        port->received_bytes += (uint64_t)frame->length;
    free(frame);
}

/* Moves on what of one ring is due; returns whether anything was. */
static int drain(struct ring *ring, struct port *from, int64_t now, int64_t *next_ns) {
    struct frame *head;
    int moved = 0;
    while ((head = ring->head) != NULL && head->due_ns <= now) {
        if (from != NULL)
            arrive(from, take(ring));
        else
            deliver(take(ring));
        moved = 1;
    }
    if (head != NULL && (*next_ns < 0 || head->due_ns < *next_ns))
        *next_ns = head->due_ns;
    return moved;
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
            for (int ring = 0; ring < RINGS; ring++) {
                moved |= drain(&port->under_way[ring], port, now, &next_ns);
                drain(&port->arriving[ring], NULL, now, &next_ns);
            }
        }
    } while (moved);
    return next_ns;
}

static uint32_t below(double probability) {
    return (uint32_t)(probability * 4294967295.0);
}

static void open_port(int number, const char *prefix, const char *rates) {
    struct port *port = &ports[number];
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    double up_mbit, down_mbit, own_ms = 0, jitter_ms = 0, lost = 0, twice = 0, held = 0, hold_ms = 0;
    double longest_ms = -1;
    if (sscanf(rates, "%lf:%lf:%lf:%lf:%lf:%lf:%lf:%lf:%lf:%d:%d", &up_mbit, &down_mbit, &own_ms,
               &jitter_ms, &lost, &twice, &held, &hold_ms, &longest_ms, &port->site,
               &port->is_closed) < 2 ||
        up_mbit <= 0 || down_mbit <= 0) {
        fprintf(stderr, "no rates: %s\n", rates);
        exit(2);
    }
    port->up_ns_per_byte = 8000.0 / up_mbit;
    port->down_ns_per_byte = 8000.0 / down_mbit;
    port->own_delay_ns = (int64_t)(own_ms * 1e6);
    port->jitter_ns = (int64_t)(jitter_ms * 1e6);
    port->hold_ns = (int64_t)(hold_ms * 1e6);
    port->queue_ns = longest_ms < 0 ? queue_ns : (int64_t)(longest_ms * 1e6);
    port->lost_below = below(lost);
    port->twice_below = below(twice);
    port->held_below = below(held);
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
        loss_below = below(atof(value));
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
    loss_below = below(atof(values[4]));
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
    struct timespec look = {0, LOOK_NS};
    while (!is_over) {
        nanosleep(&look, NULL);
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
