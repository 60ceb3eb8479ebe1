/* Training works on different pieces ("words") with their counts, not on the text. For each pair of ids there is its
 * count and a list of the words that had it when they were last looked at. A merge visits those words alone: takes all
 * their pairs out of the counts, merges, and puts the new pairs in. The next pair comes from a heap whose entries may
 * be out of date: one that is, is put back with the true count.
 * The result is written as vocab.json and merges.txt in memory and read by bpe_parse, so that a trained tokenizer has
 * passed every check that a file must pass. */
#include "text/bpe_train.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "text/unicode.h"

#define MAX_WORD 1024
#define FIRST_BYTE 4

static const char *const first_tokens[FIRST_BYTE] = { "<s>", "<pad>", "</s>", "<unk>" };

struct word {
    int64_t count;
    size_t at; /* its ids in train.ids; while words are counted: its bytes in train.bytes */
    int32_t n, n_bytes;
};

struct pair {
    int32_t left, right;
    int64_t count;
    int32_t last; /* of its list in train.uses, -1 = empty */
    int32_t touched; /* the merge that last raised its count */
};

struct use { /* a link of a pair's list of words */
    int32_t word, before;
};

struct entry { /* of the heap: what a pair's count was */
    int64_t count;
    int32_t pair;
};

/* An array that grows by doubling. */
struct grow {
    void *data;
    int64_t n, room;
};

struct train {
    struct grow words, bytes, ids, pairs, uses, heap, tokens, merges, raised;
    int32_t *word_slots, *pair_slots; /* index + 1, 0 = free */
    int64_t word_mask, pair_mask;
    int32_t round;
};

/* Room for `more` elements at the end: the first of them, zeroed; NULL on error. */
static void *grow_by(struct grow *g, int64_t more, size_t size, struct err *err)
{
    if (g->n + more > g->room || !g->data) {
        const int64_t room = 2 * (g->n + more) + 64;
        void *data = mem_resize(g->data, room, size, MEM_TEXT, err);
        if (!data)
            return NULL;
        g->data = data;
        g->room = room;
    }
    g->n += more;
    return (char *)g->data + (size_t)(g->n - more) * size;
}

static struct word *word_at(const struct train *t, int64_t i)
{
    return (struct word *)t->words.data + i;
}

static struct pair *pair_at(const struct train *t, int64_t i)
{
    return (struct pair *)t->pairs.data + i;
}

static uint64_t hash_pair(int32_t left, int32_t right)
{
    return (((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u) >> 32;
}

static uint64_t hash_word(const struct train *t, int64_t i)
{
    const struct word *w = word_at(t, i);

    return hash_bytes((const char *)t->bytes.data + w->at, (size_t)w->n_bytes);
}

static uint64_t hash_pair_at(const struct train *t, int64_t i)
{
    return hash_pair(pair_at(t, i)->left, pair_at(t, i)->right);
}

/* Doubles a table that is half full, and puts its n elements in again. */
static int grow_table(struct train *t, int32_t **slots, int64_t *mask, int64_t n,
                      uint64_t (*hash)(const struct train *, int64_t), struct err *err)
{
    if (*slots && 2 * n < *mask)
        return 0;
    const int64_t size = *slots ? 2 * (*mask + 1) : 4096;
    int32_t *table = mem_array(size, 1, sizeof *table, MEM_TEXT, err);
    if (!table)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        uint64_t at = hash(t, i) & (uint64_t)(size - 1);
        while (table[at])
            at = (at + 1) & (uint64_t)(size - 1);
        table[at] = (int32_t)i + 1;
    }
    mem_free(*slots);
    *slots = table;
    *mask = size - 1;
    return 0;
}

static int count_word(struct train *t, const char *s, int32_t n, struct err *err)
{
    if (grow_table(t, &t->word_slots, &t->word_mask, t->words.n, hash_word, err) != 0)
        return -1;
    uint64_t at = hash_bytes(s, (size_t)n) & (uint64_t)t->word_mask;
    for (; t->word_slots[at]; at = (at + 1) & (uint64_t)t->word_mask) {
        struct word *w = word_at(t, t->word_slots[at] - 1);
        if (w->n_bytes == n && memcmp((char *)t->bytes.data + w->at, s, (size_t)n) == 0) {
            w->count++;
            return 0;
        }
    }
    if (t->words.n == INT32_MAX - 1)
        return err_set(err, ERR_INPUT, "the texts have more than %d different words", INT32_MAX - 1);
    char *copy = grow_by(&t->bytes, n, 1, err);
    struct word *w = copy ? grow_by(&t->words, 1, sizeof *w, err) : NULL;
    if (!w)
        return -1;
    memcpy(copy, s, (size_t)n);
    *w = (struct word){ .count = 1, .at = (size_t)(copy - (char *)t->bytes.data), .n = n, .n_bytes = n };
    t->word_slots[at] = (int32_t)t->words.n;
    return 0;
}

static int count_text(struct train *t, struct piece_cursor *c, const char *text, size_t n, struct err *err)
{
    const char *piece;
    size_t n_piece;
    int more;

    piece_cursor_set(c, text, n);
    while ((more = piece_cursor_step(c, &piece, &n_piece, err)) > 0)
        for (size_t at = 0; at < n_piece; at += MAX_WORD) {
            const size_t left = n_piece - at;
            if (count_word(t, piece + at, (int32_t)(left < MAX_WORD ? left : MAX_WORD), err) != 0)
                return -1;
        }
    return more;
}

static int count_texts(struct train *t, const char *const *texts, const size_t *sizes, int64_t n_texts, struct err *err)
{
    struct pieces pieces;
    struct piece_cursor cursor = { 0 };

    if (pieces_open(&pieces, err) != 0)
        return -1;
    int failed = piece_cursor_init(&cursor, &pieces, err);
    for (int64_t i = 0; !failed && i < n_texts; i++) {
        const size_t bad = unicode_check(texts[i], sizes[i]);
        if (bad < sizes[i]) {
            failed = err_set(err, ERR_INPUT, "text %" PRId64 " is not valid UTF-8", i + 1);
            err_where(err, "byte %zu of the text", bad);
        } else {
            failed = count_text(t, &cursor, texts[i], sizes[i], err);
        }
    }
    piece_cursor_free(&cursor);
    pieces_close(&pieces);
    return failed;
}

static int64_t find_pair(struct train *t, int32_t left, int32_t right, struct err *err)
{
    if (grow_table(t, &t->pair_slots, &t->pair_mask, t->pairs.n, hash_pair_at, err) != 0)
        return -1;
    uint64_t at = hash_pair(left, right) & (uint64_t)t->pair_mask;
    for (; t->pair_slots[at]; at = (at + 1) & (uint64_t)t->pair_mask) {
        const struct pair *p = pair_at(t, t->pair_slots[at] - 1);
        if (p->left == left && p->right == right)
            return t->pair_slots[at] - 1;
    }
    if (t->pairs.n == INT32_MAX - 1)
        return err_set(err, ERR_INPUT, "the texts have more than %d different pairs", INT32_MAX - 1);
    struct pair *p = grow_by(&t->pairs, 1, sizeof *p, err);
    if (!p)
        return -1;
    *p = (struct pair){ left, right, 0, -1, -1 };
    t->pair_slots[at] = (int32_t)t->pairs.n;
    return t->pairs.n - 1;
}

/* The word has this pair: count it, remember where, and that its count has gone up. */
static int add_pair(struct train *t, int32_t word, int32_t left, int32_t right, struct err *err)
{
    const int64_t i = find_pair(t, left, right, err);

    if (i < 0)
        return -1;
    struct pair *p = pair_at(t, i);
    p->count += word_at(t, word)->count;
    const struct use *last = p->last < 0 ? NULL : (struct use *)t->uses.data + p->last;
    if (!last || last->word != word) {
        if (t->uses.n == INT32_MAX - 1)
            return err_set(err, ERR_INPUT, "the texts are too large to train on at once");
        struct use *u = grow_by(&t->uses, 1, sizeof *u, err);
        if (!u)
            return -1;
        *u = (struct use){ word, p->last };
        p->last = (int32_t)t->uses.n - 1;
    }
    if (p->touched == t->round)
        return 0;
    int32_t *raised = grow_by(&t->raised, 1, sizeof *raised, err);
    if (!raised)
        return -1;
    *raised = (int32_t)i;
    p->touched = t->round;
    return 0;
}

static int add_pairs(struct train *t, int32_t word, struct err *err)
{
    const struct word *w = word_at(t, word);
    const int32_t *ids = (int32_t *)t->ids.data + w->at;

    for (int32_t i = 0; i + 1 < w->n; i++)
        if (add_pair(t, word, ids[i], ids[i + 1], err) != 0)
            return -1;
    return 0;
}

static int subtract_pairs(struct train *t, int32_t word, struct err *err)
{
    const struct word *w = word_at(t, word);
    const int32_t *ids = (int32_t *)t->ids.data + w->at;

    for (int32_t i = 0; i + 1 < w->n; i++) {
        const int64_t p = find_pair(t, ids[i], ids[i + 1], err);
        if (p < 0)
            return -1;
        pair_at(t, p)->count -= w->count;
    }
    return 0;
}

/* Larger count first, then smaller ids: the rule of ties. */
static bool comes_first(const struct train *t, const struct entry *a, const struct entry *b)
{
    const struct pair *x = pair_at(t, a->pair), *y = pair_at(t, b->pair);

    if (a->count != b->count)
        return a->count > b->count;
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static int heap_push(struct train *t, struct entry e, struct err *err)
{
    if (!grow_by(&t->heap, 1, sizeof e, err))
        return -1;
    struct entry *h = t->heap.data;
    int64_t at = t->heap.n - 1;
    for (; at > 0 && comes_first(t, &e, &h[(at - 1) / 2]); at = (at - 1) / 2)
        h[at] = h[(at - 1) / 2];
    h[at] = e;
    return 0;
}

static struct entry heap_pop(struct train *t)
{
    struct entry *h = t->heap.data, top = h[0], last = h[--t->heap.n];
    const int64_t n = t->heap.n;
    int64_t at = 0;

    for (int64_t child = 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && comes_first(t, &h[child + 1], &h[child]))
            child++;
        if (!comes_first(t, &h[child], &last))
            break;
        h[at] = h[child];
        at = child;
    }
    h[at] = last;
    return top;
}

/* Every pair whose count went up in this round gets an entry with its new count. */
static int push_raised(struct train *t, struct err *err)
{
    const int32_t *raised = t->raised.data;

    for (int64_t i = 0; i < t->raised.n; i++)
        if (heap_push(t, (struct entry){ pair_at(t, raised[i])->count, raised[i] }, err) != 0)
            return -1;
    t->raised.n = 0;
    t->round++;
    return 0;
}

/* The pair to merge next, -1 if none occurs twice. */
static int64_t next_pair(struct train *t, struct err *err)
{
    while (t->heap.n > 0) {
        struct entry e = heap_pop(t);
        const int64_t count = pair_at(t, e.pair)->count;

        if (count == e.count && count >= 2)
            return e.pair;
        e.count = count;
        if (count >= 2 && heap_push(t, e, err) != 0)
            return -2;
    }
    return -1;
}

static void merge_word(struct train *t, int32_t word, int32_t left, int32_t right, int32_t id)
{
    struct word *w = word_at(t, word);
    int32_t *ids = (int32_t *)t->ids.data + w->at, to = 0;

    for (int32_t i = 0; i < w->n; to++) {
        const bool both = i + 1 < w->n && ids[i] == left && ids[i + 1] == right;
        ids[to] = both ? id : ids[i];
        i += both ? 2 : 1;
    }
    w->n = to;
}

static bool has_pair(const struct train *t, int32_t word, int32_t left, int32_t right)
{
    const struct word *w = word_at(t, word);
    const int32_t *ids = (int32_t *)t->ids.data + w->at;

    for (int32_t i = 0; i + 1 < w->n; i++)
        if (ids[i] == left && ids[i + 1] == right)
            return true;
    return false;
}

static int merge_everywhere(struct train *t, int64_t pair, int32_t id, struct err *err)
{
    const struct pair p = *pair_at(t, pair);

    for (int32_t use = p.last; use >= 0;) {
        const struct use u = ((struct use *)t->uses.data)[use];

        use = u.before;
        if (!has_pair(t, u.word, p.left, p.right))
            continue;
        if (subtract_pairs(t, u.word, err) != 0)
            return -1;
        merge_word(t, u.word, p.left, p.right, id);
        if (add_pairs(t, u.word, err) != 0)
            return -1;
    }
    pair_at(t, pair)->last = -1;
    return push_raised(t, err);
}

/* Tokens as text, one after the other with a zero byte behind each. */
struct names {
    struct grow *text;
    json_t *ids; /* token -> id, which becomes vocab.json */
    struct grow at; /* size_t, where each token begins */
};

static int add_name(struct names *names, const char *name, struct err *err)
{
    const size_t n = strlen(name) + 1;
    size_t *at = grow_by(&names->at, 1, sizeof *at, err);
    char *copy = at ? grow_by(names->text, (int64_t)n, 1, err) : NULL;

    if (!copy)
        return -1;
    memcpy(copy, name, n);
    *at = (size_t)(copy - (char *)names->text->data);
    if (json_object_set_new(names->ids, name, json_integer(names->at.n - 1)) != 0)
        return err_set(err, ERR_MEMORY, "could not allocate the vocabulary");
    return 0;
}

static const char *name_of(const struct names *names, int32_t id)
{
    return (char *)names->text->data + ((size_t *)names->at.data)[id];
}

static int add_first_names(struct names *names, struct err *err)
{
    for (int i = 0; i < FIRST_BYTE; i++)
        if (add_name(names, first_tokens[i], err) != 0)
            return -1;
    for (int i = 0; i < 256; i++) {
        char name[8] = "";
        unicode_put(unicode_of_byte((unsigned char)i), name);
        if (add_name(names, name, err) != 0)
            return -1;
    }
    return 0;
}

/* The line of merges.txt and the id of the result: a new one, unless another pair spelt the same token before. */
static int32_t name_merge(struct train *t, struct names *names, const struct pair *p, struct err *err)
{
    const char *left = name_of(names, p->left), *right = name_of(names, p->right);
    char *name = mem_printf(MEM_TEXT, err, "%s%s", left, right), *line;
    const size_t n = strlen(left) + strlen(right) + 2;
    int32_t id = -1;

    if (!name)
        return -1;
    line = grow_by(&t->merges, (int64_t)n + 1, 1, err);
    if (line) {
        snprintf(line, n + 1, "%s %s\n", left, right);
        t->merges.n--; /* the zero byte */
        const json_t *known = json_object_get(names->ids, name);
        if (known)
            id = (int32_t)json_integer_value(known);
        else if (add_name(names, name, err) == 0)
            id = (int32_t)names->at.n - 1;
    }
    mem_free(name);
    return id;
}

static int make_ids(struct train *t, struct err *err)
{
    if (!grow_by(&t->ids, t->bytes.n, sizeof(int32_t), err))
        return -1;
    for (int64_t i = 0; i < t->bytes.n; i++)
        ((int32_t *)t->ids.data)[i] = FIRST_BYTE + ((unsigned char *)t->bytes.data)[i];
    for (int64_t i = 0; i < t->words.n; i++)
        if (add_pairs(t, (int32_t)i, err) != 0)
            return -1;
    return push_raised(t, err);
}

static int learn(struct train *t, struct names *names, int32_t vocab_size, struct err *err)
{
    while (names->at.n < vocab_size) {
        const int64_t pair = next_pair(t, err);

        if (pair < 0)
            return pair == -1 ? 0 : -1;
        const int32_t id = name_merge(t, names, pair_at(t, pair), err);
        if (id < 0 || merge_everywhere(t, pair, id, err) != 0)
            return -1;
    }
    return 0;
}

static int build(const struct train *t, const struct names *names, struct bpe **out, struct err *err)
{
    char *vocab = json_dumps(names->ids, JSON_COMPACT);
    const struct bpe_files files = {
        .vocab = { "vocab.json", vocab, vocab ? strlen(vocab) : 0 },
        .merges = { "merges.txt", t->merges.data ? t->merges.data : "", (size_t)t->merges.n },
    };
    const int failed = vocab ? bpe_parse(out, &files, err) : err_set(err, ERR_MEMORY, "could not allocate vocab.json");

    free(vocab);
    return failed;
}

int bpe_train(const char *const *texts, const size_t *sizes, int64_t n_texts, int32_t vocab_size, struct bpe **out,
              struct err *err)
{
    struct train t = { 0 };
    struct names names = { .text = &t.tokens, .ids = json_object() };
    int failed = -1;

    *out = NULL;
    if (vocab_size < BPE_TRAIN_MIN_IDS || vocab_size > VOCAB_MAX_IDS)
        err_set(err, ERR_USAGE, "the vocabulary size is %d, it must be from %d to %d", vocab_size, BPE_TRAIN_MIN_IDS,
                VOCAB_MAX_IDS);
    else if (!names.ids)
        err_set(err, ERR_MEMORY, "could not allocate the vocabulary");
    else if (count_texts(&t, texts, sizes, n_texts, err) == 0 && add_first_names(&names, err) == 0 &&
             make_ids(&t, err) == 0 && learn(&t, &names, vocab_size, err) == 0)
        failed = build(&t, &names, out, err);
    struct grow *const all[] = { &t.words, &t.bytes,  &t.ids,    &t.pairs,  &t.uses,
                                 &t.heap,  &t.tokens, &t.merges, &t.raised, &names.at };
    for (int i = 0; i < COUNT_OF(all); i++)
        mem_free(all[i]->data);
    mem_free(t.word_slots);
    mem_free(t.pair_slots);
    json_decref(names.ids);
    return failed;
}
