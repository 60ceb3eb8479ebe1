/* Two ways to the same ids. Short pieces, nearly all of them: passes over a small array. Long ones (a megabyte without
 * a space is a legal text): a linked list and a heap of (rank, position). Both merge all occurrences of one pair before
 * they look at the next, which also fixes the result for merges that no training would have made. */
#include "text/merge.h"

#include "base/mem.h"

#define SHORT_PIECE 64
#define NO_RANK INT32_MAX

struct symbol {
    int32_t id;
    int32_t rank, merged; /* of the pair with the next symbol */
};

static void look_up(const struct vocab *v, struct symbol *s, int32_t next)
{
    const struct vocab_pair *pair = s->id < 0 || next < 0 ? NULL : vocab_pair(v, s->id, next);

    s->rank = pair && pair->key ? pair->rank : NO_RANK;
    s->merged = pair ? pair->id : -1;
}

/* Merges every occurrence of the pair of this rank; returns the new length. */
static int merge_pass(const struct vocab *v, struct symbol *s, int n, int32_t rank)
{
    bool fresh = false;
    int to = 0;

    for (int i = 0; i < n; to++) {
        const bool merge = s[i].rank == rank;
        s[to] = (struct symbol){ merge ? s[i].merged : s[i].id, s[i].rank, s[i].merged };
        if (to > 0 && (fresh || merge))
            look_up(v, &s[to - 1], s[to].id);
        fresh = merge;
        i += merge ? 2 : 1;
    }
    s[to - 1].rank = NO_RANK;
    return to;
}

static int32_t lowest_rank(const struct symbol *s, int n)
{
    int32_t lowest = NO_RANK;

    for (int i = 0; i < n; i++)
        lowest = s[i].rank < lowest ? s[i].rank : lowest;
    return lowest;
}

static int64_t merge_short(const struct vocab *v, const char *piece, int n, int32_t *out)
{
    struct symbol s[SHORT_PIECE];
    int32_t rank;

    for (int i = 0; i < n; i++)
        s[i].id = v->byte_id[(unsigned char)piece[i]];
    for (int i = 0; i < n - 1; i++)
        look_up(v, &s[i], s[i + 1].id);
    s[n - 1].rank = NO_RANK;
    while ((rank = lowest_rank(s, n)) != NO_RANK)
        n = merge_pass(v, s, n, rank);
    for (int i = 0; i < n; i++)
        out[i] = s[i].id;
    return n;
}

struct merge_node {
    int32_t id, before, after; /* -1 at the ends; id -2 = merged into the one before */
};

/* The heap holds rank << 32 | position, smallest first. An entry whose pair has changed since is skipped when it comes
 * up; each merge adds at most two, so 3n is room enough. */
static void heap_push(uint64_t *heap, int64_t *n, uint64_t entry)
{
    int64_t at = (*n)++;

    for (; at > 0 && heap[(at - 1) / 2] > entry; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = entry;
}

static uint64_t heap_pop(uint64_t *heap, int64_t *n)
{
    const uint64_t top = heap[0], last = heap[--*n];
    int64_t at = 0;

    for (int64_t child = 1; child < *n; child = 2 * at + 1) {
        if (child + 1 < *n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

static const struct vocab_pair *pair_at(const struct vocab *v, const struct merge_node *nodes, int32_t at)
{
    const int32_t after = at < 0 ? -1 : nodes[at].after;
    const struct vocab_pair *pair;

    if (after < 0 || nodes[at].id < 0 || nodes[after].id < 0)
        return NULL;
    pair = vocab_pair(v, nodes[at].id, nodes[after].id);
    return pair->key ? pair : NULL;
}

static void push_pair(const struct vocab *v, struct merge_scratch *s, int64_t *n_heap, int32_t at)
{
    const struct vocab_pair *pair = pair_at(v, s->nodes, at);

    if (pair)
        heap_push(s->heap, n_heap, (uint64_t)pair->rank << 32 | (uint32_t)at);
}

static void merge_node(struct merge_node *nodes, int32_t at, int32_t id)
{
    const int32_t gone = nodes[at].after, after = nodes[gone].after;

    nodes[at].id = id;
    nodes[at].after = after;
    nodes[gone].id = -2;
    if (after >= 0)
        nodes[after].before = at;
}

/* Everything of the lowest rank, taken off the heap before the first merge can add to it. */
static void merge_lowest(const struct vocab *v, struct merge_scratch *s, int64_t *n_heap)
{
    const int32_t rank = (int32_t)(s->heap[0] >> 32);
    int64_t n = 0;

    while (*n_heap > 0 && (int32_t)(s->heap[0] >> 32) == rank)
        s->batch[n++] = (int32_t)(uint32_t)heap_pop(s->heap, n_heap);
    for (int64_t i = 0; i < n; i++) {
        const int32_t at = s->batch[i];
        const struct vocab_pair *pair = pair_at(v, s->nodes, at);

        if (!pair || pair->rank != rank)
            continue;
        merge_node(s->nodes, at, pair->id);
        push_pair(v, s, n_heap, at);
        push_pair(v, s, n_heap, s->nodes[at].before);
    }
}

static int scratch_grow(struct merge_scratch *s, int64_t n, struct err *err)
{
    if (n <= s->max_nodes)
        return 0;
    merge_scratch_free(s);
    s->nodes = mem_array(n, 1, sizeof *s->nodes, MEM_TEXT, err);
    s->heap = s->nodes ? mem_array(n, 3, sizeof *s->heap, MEM_TEXT, err) : NULL;
    s->batch = s->heap ? mem_array(n, 1, sizeof *s->batch, MEM_TEXT, err) : NULL;
    if (!s->batch) {
        merge_scratch_free(s);
        return -1;
    }
    s->max_nodes = n;
    return 0;
}

static int64_t merge_long(const struct vocab *v, struct merge_scratch *s, const char *piece, int32_t n, int32_t *out,
                          struct err *err)
{
    int64_t n_heap = 0, n_out = 0;

    if (scratch_grow(s, n, err) != 0)
        return -1;
    for (int32_t i = 0; i < n; i++)
        s->nodes[i] = (struct merge_node){ v->byte_id[(unsigned char)piece[i]], i - 1, i + 1 < n ? i + 1 : -1 };
    for (int32_t i = 0; i < n; i++)
        push_pair(v, s, &n_heap, i);
    while (n_heap > 0)
        merge_lowest(v, s, &n_heap);
    for (int32_t i = 0; i >= 0; i = s->nodes[i].after)
        out[n_out++] = s->nodes[i].id;
    return n_out;
}

int64_t merge_piece(const struct vocab *v, struct merge_scratch *s, const char *piece, size_t n, int32_t *out,
                    struct err *err)
{
    MUST(n > 0 && n <= MERGE_MAX_PIECE);
    if (n <= SHORT_PIECE)
        return merge_short(v, piece, (int)n, out);
    return merge_long(v, s, piece, (int32_t)n, out, err);
}

void merge_scratch_free(struct merge_scratch *s)
{
    mem_free(s->nodes);
    mem_free(s->heap);
    mem_free(s->batch);
    *s = (struct merge_scratch){ 0 };
}
