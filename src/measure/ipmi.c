/* One message to /dev/ipmi0 and its answer. Controllers average over a second and answer slowly, so that this is asked once a
 * second, and counts only on machines that have nothing finer. TUNEUP_DEV_ROOT moves /dev. */
#include "measure/ipmi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ipmi.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/channel.h"

#define GROUP_EXTENSION 0x2c /* network function of DCMI */
#define DCMI 0xdc
#define GET_POWER 0x02
#define ANSWER_MS 200
#define NOT_THERE 0xc1 /* "invalid command": a controller without DCMI */

struct ipmi {
    int fd;
    long id; /* of the last message */
};

int ipmi_parse_power(const unsigned char *data, size_t n, double *watts)
{
    if (n < 1)
        return -EBADMSG;
    if (data[0] != 0)
        return data[0] == NOT_THERE ? -ENOTSUP : -EIO;
    if (n < 19 || data[1] != DCMI)
        return -EBADMSG;
    if (!(data[18] & 0x40)) /* power measurement is not active */
        return -ENODATA;
    *watts = data[2] + 256 * data[3];
    return 0;
}

static int ask(struct ipmi *i)
{
    unsigned char data[] = { DCMI, 0x01, 0x00, 0x00 }; /* the power now, as system statistics */
    struct ipmi_system_interface_addr to = { .addr_type = IPMI_SYSTEM_INTERFACE_ADDR_TYPE,
                                             .channel = IPMI_BMC_CHANNEL };
    struct ipmi_req request = {
        .addr = (unsigned char *)&to,
        .addr_len = sizeof to,
        .msgid = ++i->id,
        .msg = { .netfn = GROUP_EXTENSION, .cmd = GET_POWER, .data_len = sizeof data, .data = data }
    };

    return ioctl(i->fd, IPMICTL_SEND_COMMAND, &request) == 0 ? 0 : -errno;
}

static int answer(struct ipmi *i, double *watts)
{
    for (int tries = 0; tries < 3; tries++) { /* late answers to earlier messages come first */
        unsigned char data[256], from[IPMI_MAX_ADDR_SIZE];
        struct ipmi_recv got = { .addr = from,
                                 .addr_len = sizeof from,
                                 .msg = { .data = data, .data_len = sizeof data } };
        struct pollfd ready = { .fd = i->fd, .events = POLLIN };

        if (poll(&ready, 1, ANSWER_MS) <= 0)
            return -ETIMEDOUT;
        if (ioctl(i->fd, IPMICTL_RECEIVE_MSG_TRUNC, &got) != 0)
            return -errno;
        if (got.msgid == i->id)
            return ipmi_parse_power(data, got.msg.data_len < sizeof data ? got.msg.data_len : sizeof data, watts);
    }
    return -ETIMEDOUT;
}

static int read_channel(const struct channel *c, struct channel_reading *out)
{
    struct ipmi *i = c->own;
    const int status = ask(i);

    return status != 0 ? status : answer(i, &out->power_w);
}

static int open_device(char *path, size_t size)
{
    static const char *const names[] = { "ipmi0", "ipmi/0", "ipmidev/0" };
    const char *root = getenv("TUNEUP_DEV_ROOT");
    int fd = -1;

    for (int i = 0; i < COUNT_OF(names) && fd < 0 && (i == 0 || errno == ENOENT || errno == ENOTDIR); i++) {
        snprintf(path, size, "%.400s/%s", root && *root ? root : "/dev", names[i]);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    return fd;
}

static void open_source(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    char path[512];
    struct err err;
    const int fd = open_device(path, sizeof path);

    (void)o;
    if (fd < 0 && errno != ENOENT && errno != ENOTDIR) {
        snprintf(f->why, sizeof f->why, "the management controller cannot be asked: %.60s", path);
        snprintf(f->hint, sizeof f->hint, "Only root may by default: chgrp GROUP %.60s && chmod g+rw %.60s", path,
                 path);
    }
    if (fd < 0)
        return;
    struct ipmi *i = mem_array(1, 1, sizeof *i, MEM_RECORD, &err);
    struct channel *c = i ? channel_add(set, &ipmi_source, i, "machine (dcmi)") : NULL;
    if (!c) {
        close(fd);
        mem_free(i);
        return;
    }
    i->fd = fd;
    *own = i;
    c->role = CHANNEL_STANDS_IN;
    c->update_s = 1;
    snprintf(c->note, sizeof c->note, "the management controller's meter of the whole machine");
    channel_start(c);
    if (c->first_error == 0)
        return;
    set->n--;
    snprintf(f->why, sizeof f->why, "the management controller tells no power: %s",
             c->first_error == ENOTSUP ? "it has no DCMI" : "it does not answer as DCMI does");
}

static void close_source(void *own)
{
    close(((struct ipmi *)own)->fd);
    mem_free(own);
}

const struct energy_source ipmi_source = {
    .name = "ipmi", .device = true, .open = open_source, .read = read_channel, .close = close_source
};
