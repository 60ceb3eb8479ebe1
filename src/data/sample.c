/* One array of ids and one of rows that point into it: shuffling moves rows and leaves the ids where they are. */
#include "data/sample.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/shuffle.h"

int samples_init(struct samples *s, enum sample_kind kind, int64_t max_ids, int32_t pad, struct err *err)
{
    *s = (struct samples){ .kind = kind, .max_ids = max_ids, .pad = pad };
    if (max_ids >= 2)
        return 0;
    err_set(err, ERR_USAGE, "samples of at most %" PRId64 " ids leave nothing to predict", max_ids);
    return err_hint(err, "Ask for a longest sequence of 2 ids or more.");
}

/* Room for n more rows and n_ids more ids. */
static int make_room(struct samples *s, int64_t n, int64_t n_ids, struct err *err)
{
    const int64_t n_rows = s->n * samples_rows_each(s);

    if (n_rows + n > s->rows_capacity) {
        const int64_t capacity = (n_rows + n) * 2;
        struct sample_row *rows = mem_resize(s->rows, capacity, sizeof *rows, MEM_DATA, err);
        if (!rows)
            return -1;
        s->rows = rows;
        s->rows_capacity = capacity;
    }
    if (s->n_ids + n_ids > s->ids_capacity) {
        const int64_t capacity = (s->n_ids + n_ids) / 2 * 3 + 1024;
        int32_t *ids = mem_resize(s->ids, capacity, sizeof *ids, MEM_DATA, err);
        if (!ids)
            return -1;
        s->ids = ids;
        s->ids_capacity = capacity;
    }
    return 0;
}

static int64_t cut(const struct samples *s, int64_t n)
{
    return n < s->max_ids ? n : s->max_ids;
}

static struct sample_row put(struct samples *s, const int32_t *ids, int64_t n)
{
    const struct sample_row row = { .at = s->n_ids, .n = cut(s, n), .n_whole = n };

    if (row.n > 0)
        memcpy(s->ids + row.at, ids, (size_t)row.n * sizeof *ids);
    s->n_ids += row.n;
    return row;
}

int samples_add(struct samples *s, const int32_t *ids, int64_t n, const int32_t *rejected, int64_t n_rejected,
                struct err *err)
{
    const int64_t each = samples_rows_each(s);

    MUST((each == 2) == (rejected != NULL));
    if (s->kind == SAMPLE_PROMPT && n > s->max_ids) {
        s->n_dropped++;
        return 0;
    }
    if (make_room(s, each, cut(s, n) + cut(s, n_rejected), err) != 0)
        return -1;
    s->rows[s->n * each] = put(s, ids, n);
    if (rejected)
        s->rows[s->n * each + 1] = put(s, rejected, n_rejected);
    s->n++;
    return 0;
}

int samples_shuffle(struct samples *s, uint32_t seed, struct err *err)
{
    const int64_t each = samples_rows_each(s);

    if (s->n > SHUFFLE_MAX)
        return err_set(err, ERR_INPUT, "there are %" PRId64 " samples, at most %" PRId64 " are supported", s->n,
                       SHUFFLE_MAX);
    int64_t *order = mem_array(s->n, 1, sizeof *order, MEM_DATA, err);
    struct sample_row *rows = order ? mem_array(s->n, each, sizeof *rows, MEM_DATA, err) : NULL;
    if (rows) {
        shuffle_numpy(seed, s->n, order);
        for (int64_t i = 0; i < s->n; i++)
            for (int64_t k = 0; k < each; k++)
                rows[i * each + k] = s->rows[order[i] * each + k];
        mem_free(s->rows);
        s->rows = rows;
        s->rows_capacity = s->n * each;
    }
    mem_free(order);
    return rows ? 0 : -1;
}

int64_t samples_equal_pairs(const struct samples *s)
{
    int64_t equal = 0;

    MUST(s->kind == SAMPLE_PAIR);
    for (const struct sample_row *row = s->rows; row < s->rows + 2 * s->n; row += 2)
        equal += row[0].n == row[1].n &&
                 memcmp(s->ids + row[0].at, s->ids + row[1].at, (size_t)row[0].n * sizeof *s->ids) == 0;
    return equal;
}

void samples_free(struct samples *s)
{
    mem_free(s->rows);
    mem_free(s->ids);
    *s = (struct samples){ 0 };
}

static int compare(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* The smallest length that at least percent of the rows do not exceed. */
static int64_t quantile(const int64_t *sorted, int64_t n, int64_t percent)
{
    const int64_t rank = (n * percent + 99) / 100;

    return sorted[rank > 0 ? rank - 1 : 0];
}

void sample_stats_of(int64_t *lengths, int64_t n, int64_t limit, struct sample_stats *out)
{
    *out = (struct sample_stats){ .n_rows = n, .limit = limit };
    if (n == 0)
        return;
    qsort(lengths, (size_t)n, sizeof *lengths, compare);
    out->p10 = quantile(lengths, n, 10);
    out->p50 = quantile(lengths, n, 50);
    out->p90 = quantile(lengths, n, 90);
    out->p99 = quantile(lengths, n, 99);
    out->longest = lengths[n - 1];
    for (int64_t i = 0; i < n; i++) {
        out->total += lengths[i];
        out->n_cut += lengths[i] > limit;
        out->total_cut += lengths[i] > limit ? lengths[i] - limit : 0;
    }
    out->padding = 1 - (double)(out->total - out->total_cut) / ((double)n * (double)limit);
}

int samples_stats(const struct samples *s, struct sample_stats *out, struct err *err)
{
    const int64_t n = s->n * samples_rows_each(s);
    int64_t *lengths = mem_array(n, 1, sizeof *lengths, MEM_DATA, err);

    if (!lengths)
        return -1;
    for (int64_t i = 0; i < n; i++)
        lengths[i] = s->rows[i].n_whole;
    sample_stats_of(lengths, n, s->max_ids, out);
    mem_free(lengths);
    return 0;
}
