/* tests/equivalence/local_ranks.h - ranks as threads of one process, for tests: collectives over shared memory, summed in the
 * order of ranks. */
#ifndef TUNEUP_TESTS_LOCAL_RANKS_H
#define TUNEUP_TESTS_LOCAL_RANKS_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

#define LOCAL_MAX_RANKS 4

struct local_pending {
    void *x;
    enum collective what;
    int64_t n;
    enum dtype t;
};

struct local_world {
    int ranks;
    struct local_pending pending[LOCAL_MAX_RANKS][COMM_MAX_PENDING];
    pthread_barrier_t barrier;
    void *slot[LOCAL_MAX_RANKS];
    pthread_mutex_t mutex; /* of the letter, as is: */
    pthread_cond_t moved;
    const void *letter[LOCAL_MAX_RANKS][LOCAL_MAX_RANKS]; /* from, to: until it is read */
};

static inline void local_world_init(struct local_world *w, int ranks)
{
    *w = (struct local_world){ .ranks = ranks };
    pthread_barrier_init(&w->barrier, NULL, (unsigned)ranks);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->moved, NULL);
}

static inline void local_world_free(struct local_world *w)
{
    pthread_barrier_destroy(&w->barrier);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->moved);
}

static inline void local_add(void *sum, const void *x, int64_t n, enum dtype t)
{
    for (int64_t i = 0; i < n; i++)
        if (t == F32)
            ((float *)sum)[i] += ((const float *)x)[i];
        else if (t == F64)
            ((double *)sum)[i] += ((const double *)x)[i];
        else
            ((uint16_t *)sum)[i] =
                half_from_f32(half_to_f32(((uint16_t *)sum)[i], t) + half_to_f32(((const uint16_t *)x)[i], t), t);
}

static inline int local_reduce(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    struct local_world *w = c->own;
    char *sum = malloc((size_t)n * dtype_bytes(t));

    (void)err;
    w->slot[c->rank] = x;
    pthread_barrier_wait(&w->barrier);
    memcpy(sum, w->slot[0], (size_t)n * dtype_bytes(t));
    for (int r = 1; r < w->ranks; r++)
        local_add(sum, w->slot[r], n, t);
    pthread_barrier_wait(&w->barrier);
    memcpy(x, sum, (size_t)n * dtype_bytes(t));
    free(sum);
    return 0;
}

static inline int local_scatter(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    const size_t bytes = (size_t)(c->rank * n) * dtype_bytes(t), all = (size_t)(c->ranks * n) * dtype_bytes(t);
    char *own = malloc((size_t)n * dtype_bytes(t));

    if (local_reduce(c, x, n * c->ranks, t, err) != 0)
        return -1;
    memcpy(own, (char *)x + bytes, (size_t)n * dtype_bytes(t));
    memset(x, 0xff, all); /* the other parts are undefined after: nobody may read them */
    memcpy((char *)x + bytes, own, (size_t)n * dtype_bytes(t));
    free(own);
    return 0;
}

static inline int local_gather(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    struct local_world *w = c->own;
    const size_t part = (size_t)n * dtype_bytes(t);

    (void)err;
    w->slot[c->rank] = x;
    pthread_barrier_wait(&w->barrier);
    for (int r = 0; r < w->ranks; r++)
        if (r != c->rank)
            memcpy((char *)x + (size_t)r * part, (char *)w->slot[r] + (size_t)r * part, part);
    pthread_barrier_wait(&w->barrier);
    return 0;
}

/* What has begun is done when it is waited for: whoever reads sooner reads what is not there yet. */
static inline int local_begin(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err)
{
    struct local_world *w = c->own;

    (void)err;
    for (int i = 0; i < COMM_MAX_PENDING; i++)
        if (!w->pending[c->rank][i].x) {
            w->pending[c->rank][i] = (struct local_pending){ x, what, n, t };
            return 0;
        }
    abort();
}

static inline int local_end(struct comm *c, void *x, struct err *err)
{
    struct local_world *w = c->own;

    for (int i = 0; i < COMM_MAX_PENDING; i++) {
        struct local_pending p = w->pending[c->rank][i];
        if (p.x != x)
            continue;
        w->pending[c->rank][i].x = NULL;
        return p.what == COMM_REDUCE_SCATTER ? c->reduce_scatter(c, x, p.n, p.t, err)
                                             : c->all_gather(c, x, p.n, p.t, err);
    }
    abort();
}

static inline int local_gather_bytes(struct comm *c, const void *own, void *all, int64_t n, struct err *err)
{
    struct local_world *w = c->own;

    (void)err;
    w->slot[c->rank] = (void *)(uintptr_t)own;
    pthread_barrier_wait(&w->barrier);
    for (int r = 0; c->rank == 0 && r < w->ranks; r++)
        memcpy((char *)all + r * n, w->slot[r], (size_t)n);
    pthread_barrier_wait(&w->barrier);
    return 0;
}

static inline int local_broadcast(struct comm *c, void *bytes, int64_t n, struct err *err)
{
    struct local_world *w = c->own;

    (void)err;
    w->slot[c->rank] = bytes;
    pthread_barrier_wait(&w->barrier);
    if (c->rank > 0)
        memcpy(bytes, w->slot[0], (size_t)n);
    pthread_barrier_wait(&w->barrier);
    return 0;
}

static inline int local_send(struct comm *c, const void *bytes, int64_t n, int to, struct err *err)
{
    struct local_world *w = c->own;

    (void)n;
    (void)err;
    pthread_mutex_lock(&w->mutex);
    w->letter[c->rank][to] = bytes;
    pthread_cond_broadcast(&w->moved);
    while (w->letter[c->rank][to])
        pthread_cond_wait(&w->moved, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
    return 0;
}

static inline int local_receive(struct comm *c, void *bytes, int64_t n, int from, struct err *err)
{
    struct local_world *w = c->own;

    (void)err;
    pthread_mutex_lock(&w->mutex);
    while (!w->letter[from][c->rank])
        pthread_cond_wait(&w->moved, &w->mutex);
    memcpy(bytes, w->letter[from][c->rank], (size_t)n);
    w->letter[from][c->rank] = NULL;
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->mutex);
    return 0;
}

static inline void local_comm(struct comm *c, struct local_world *w, int rank)
{
    comm_alone(c);
    c->rank = rank;
    c->ranks = w->ranks;
    c->own = w;
    c->all_reduce = local_reduce;
    c->reduce_scatter = local_scatter;
    c->all_gather = local_gather;
    c->begin = local_begin;
    c->end = local_end;
    c->gather_bytes = local_gather_bytes;
    c->broadcast = local_broadcast;
    c->send = local_send;
    c->receive = local_receive;
}

#endif
