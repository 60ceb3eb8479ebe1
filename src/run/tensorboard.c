/* The few protobuf fields that a scalar needs are written by hand: Event{1: wall_time double, 2: step int64, 3: file_version
 * string, 5: Summary{1: Value{1: tag string, 2: simple_value float}}}. The record format masks a CRC-32C. */
#include "run/tensorboard.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

struct message {
    unsigned char bytes[512];
    size_t n;
};

static uint32_t crc32c(const unsigned char *p, size_t n)
{
    uint32_t crc = 0xffffffffu;

    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint32_t masked(const void *p, size_t n)
{
    const uint32_t crc = crc32c(p, n);

    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void put(struct message *m, const void *p, size_t n)
{
    MUST(m->n + n <= sizeof m->bytes);
    memcpy(m->bytes + m->n, p, n);
    m->n += n;
}

static void put_varint(struct message *m, uint64_t v)
{
    do {
        const unsigned char byte = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        put(m, &byte, 1);
        v >>= 7;
    } while (v);
}

static void put_key(struct message *m, unsigned field, unsigned type)
{
    put_varint(m, field << 3 | type);
}

static void put_bytes(struct message *m, unsigned field, const void *p, size_t n)
{
    put_key(m, field, 2);
    put_varint(m, n);
    put(m, p, n);
}

static int write_event(struct tensorboard *t, struct message *event, struct err *err)
{
    const uint64_t length = event->n;
    const uint32_t length_crc = masked(&length, sizeof length), data_crc = masked(event->bytes, event->n);

    if (fwrite(&length, sizeof length, 1, t->file) != 1 || fwrite(&length_crc, sizeof length_crc, 1, t->file) != 1 ||
        fwrite(event->bytes, 1, event->n, t->file) != event->n || fwrite(&data_crc, sizeof data_crc, 1, t->file) != 1 ||
        fflush(t->file) != 0)
        return err_errno(err, "could not write TensorBoard's event file");
    return 0;
}

static void put_time(struct message *m)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    const double wall = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    put_key(m, 1, 1);
    put(m, &wall, sizeof wall);
}

int tensorboard_open(struct tensorboard *t, const char *dir, struct err *err)
{
    static const char version[] = "brain.Event:2";
    char name[128], host[64] = "host", path[FILE_PATH_MAX];
    struct message event = { 0 };

    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "events.out.tfevents.%lld.%.60s.%d", (long long)time(NULL), host, (int)getpid());
    *t = (struct tensorboard){ 0 };
    if (file_join(path, dir, name, err) != 0)
        return -1;
    t->file = fopen(path, "wbx");
    if (!t->file)
        return err_errno(err, "could not create \"%s\"", path);
    put_time(&event);
    put_bytes(&event, 3, version, sizeof version - 1);
    return write_event(t, &event, err);
}

int tensorboard_scalar(struct tensorboard *t, int64_t step, const char *tag, double value, struct err *err)
{
    const float single = (float)value;
    struct message scalar = { 0 }, summary = { 0 }, event = { 0 };

    put_bytes(&scalar, 1, tag, strlen(tag));
    put_key(&scalar, 2, 5);
    put(&scalar, &single, sizeof single);
    put_bytes(&summary, 1, scalar.bytes, scalar.n);
    put_time(&event);
    put_key(&event, 2, 0);
    put_varint(&event, (uint64_t)step);
    put_bytes(&event, 5, summary.bytes, summary.n);
    return write_event(t, &event, err);
}

void tensorboard_close(struct tensorboard *t)
{
    if (t->file)
        fclose(t->file);
    t->file = NULL;
}
