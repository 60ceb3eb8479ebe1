/* A sample's texts are joined before they are encoded, as the reference does: a token may span the seam. */
#include "data/tokenize.h"

#include <string.h>

#include "base/mem.h"

#define END_TEXT "<|endoftext|>"

struct joined {
    char *text; /* grows, and is used again for every record */
    size_t n, capacity;
};

struct encoded {
    int32_t *ids; /* from bpe_encode */
    int64_t n;
};

static int join(struct joined *j, const char *text, size_t n, struct err *err)
{
    if (n == 0)
        return 0;
    if (n > j->capacity - j->n) {
        const size_t capacity = 2 * (j->n + n) + 1024;
        char *grown = mem_resize(j->text, (int64_t)capacity, 1, MEM_DATA, err);
        if (!grown)
            return -1;
        j->text = grown;
        j->capacity = capacity;
    }
    memcpy(j->text + j->n, text, n);
    j->n += n;
    return 0;
}

/* bpe_encode, with the end id behind if asked for. */
static int encode(struct encoded *e, const struct joined *j, const struct bpe *bpe, bool end_id, struct err *err)
{
    if (bpe_encode(bpe, j->n ? j->text : "", j->n, true, &e->ids, &e->n, err) != 0)
        return -1;
    if (!end_id)
        return 0;
    int32_t *grown = mem_resize(e->ids, e->n + 1, sizeof *grown, MEM_TEXT, err);
    if (!grown)
        return -1;
    grown[e->n++] = bpe_eos(bpe);
    e->ids = grown;
    return 0;
}

/* prompt + answer + end, or the prompt alone if answer is NULL. */
static int encode_row(struct encoded *e, struct joined *j, const struct samples *s, const struct record_text *r,
                      const char *answer, size_t answer_n, const struct bpe *bpe, const struct tokenize_options *o,
                      struct err *err)
{
    const size_t space = o->jsonfile_spaces;
    const bool end_id = s->kind == SAMPLE_TEXT && o->convention == CONVENTION_NOW;

    j->n = 0;
    if (join(j, " ", space, err) != 0 || join(j, r->prompt, r->prompt_n, err) != 0)
        return -1;
    if (answer && (join(j, " ", space, err) != 0 || join(j, answer, answer_n, err) != 0))
        return -1;
    if (answer && !end_id && join(j, END_TEXT, strlen(END_TEXT), err) != 0)
        return -1;
    return encode(e, j, bpe, answer && end_id, err);
}

static int check_fields(const struct samples *s, const struct record_text *r, struct err *err)
{
    const char *missing = !r->prompt                               ? "prompt"
                          : s->kind != SAMPLE_PROMPT && !r->chosen ? "chosen"
                          : s->kind == SAMPLE_PAIR && !r->rejected ? "rejected"
                                                                   : NULL;

    if (!missing)
        return 0;
    err_set(err, ERR_INPUT, "a record has no \"%s\"", missing);
    return err_hint(err, "This phase needs it in every record; --skip_bad_records leaves such records out.");
}

static int tokenize_record(struct samples *s, struct joined *j, const struct record_text *r, const struct bpe *bpe,
                           const struct tokenize_options *o, struct err *err)
{
    struct encoded first = { 0 }, second = { 0 };
    const char *chosen = s->kind == SAMPLE_PROMPT ? NULL : r->chosen;
    int result = check_fields(s, r, err);

    if (result == 0)
        result = encode_row(&first, j, s, r, chosen, r->chosen_n, bpe, o, err);
    if (result == 0 && s->kind == SAMPLE_PAIR)
        result = encode_row(&second, j, s, r, r->rejected, r->rejected_n, bpe, o, err);
    if (result == 0)
        result = samples_add(s, first.ids, first.n, second.ids, second.n, err);
    mem_free(first.ids);
    mem_free(second.ids);
    return result;
}

int tokenize_records(struct samples *s, struct source *source, const int64_t *rows, int64_t n_rows,
                     const struct bpe *bpe, const struct tokenize_options *o, struct err *err)
{
    struct joined j = { 0 };
    int result = 0;

    for (int64_t i = 0; i < n_rows && result == 0; i++) {
        MUST(rows[i] >= 0 && rows[i] < source->n_records);
        const struct record_text *r = &source->records[rows[i]];
        if (tokenize_record(s, &j, r, bpe, o, err) != 0)
            result = source_bad_record(source, r->line, err);
    }
    mem_free(j.text);
    return result;
}
