/* Every text is one sample, in the file's order; ranks take turns, and put their scores together at the end. */
#include "run/score.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/source.h"
#include "data/tokenize.h"
#include "phases/reward.h"
#include "run/stop.h"

struct work {
    struct reward reward;
    struct scores scores;
    int64_t *record_of; /* [samples] in scores.list */
};

static int models(const struct spec *s, bool trains, struct run_model *out)
{
    (void)trains;
    out[0] = (struct run_model){
        .prefix = "", .dir = s->model, .adapter = technique_text(&s->techniques, "lora_adapter"), .value_head = true
    };
    return 1;
}

static int plan(const struct spec *s, const struct run_model *m, bool trains, int rank, int ranks,
                const struct run_live *live, struct plan *p, struct err *err)
{
    struct build b = { .phase = &phase_reward,
                       .models = { { .prefix = "", .techniques = &s->techniques } },
                       .n_models = 1,
                       .micro_steps = 1,
                       .rank = rank,
                       .ranks = ranks };

    (void)trains;
    b.models[0].stored = &m->files;
    b.models[0].adapter = &m->adapter_files;
    b.extents[EXTENTS_SCORE] =
        (struct extents){ .B = s->eval_batch, .T = s->max_seq_len, .live = live->of[EXTENTS_SCORE] };
    if (setup_length(&m->config, "max_seq_len", s->max_seq_len, err) != 0 ||
        build_shape(&m->config, s->dropout, &b.models[0].shape, err) != 0)
        return -1;
    return build_plan(&b, p, err);
}

/* The texts of a record, as prompt and chosen. Returns how many. */
static int texts_of(const struct record_text *r, struct record_text *out)
{
    out[0] = out[1] = *r;
    if (r->chosen && r->rejected) {
        out[1].chosen = r->rejected;
        out[1].chosen_n = r->rejected_n;
        return 2;
    }
    if (r->text) {
        out[0].prompt = r->text;
        out[0].prompt_n = r->text_n;
    }
    if (!r->chosen && !r->rejected) {
        out[0].chosen = "";
        out[0].chosen_n = 0;
    }
    return 1; /* of an answer that is only rejected nothing can be said: it has no "chosen" */
}

/* Adds the texts of one record, or leaves it out when it is bad and that is allowed. */
static int add_record(struct run *r, struct source *source, int64_t at, struct err *err)
{
    static const int64_t rows[] = { 0, 1 };
    struct work *w = r->work;
    struct samples *s = &r->inputs.eval;
    struct record_text texts[2];
    struct source one = *source; /* of its texts alone; what it counts goes back */
    const int64_t before = s->n;
    const int n = texts_of(&source->records[at], texts);
    /* a lone text is taken as it stands */
    const struct tokenize_options o = { CONVENTION_PAPER, r->spec->jsonfile_spaces && source->records[at].chosen };

    one.records = texts;
    one.n_records = n;
    if (tokenize_records(s, &one, rows, n, r->inputs.tokenizer, &o, err) != 0)
        return -1;
    source->n_skipped += one.n_skipped > source->n_skipped; /* two bad texts are one bad record */
    memcpy(source->problems, one.problems, sizeof one.problems);
    if (s->n - before != n) {
        s->n = before;
        return 0;
    }
    for (int i = 0; i < n; i++)
        w->record_of[before + i] = w->scores.n;
    w->scores.list[w->scores.n] = (struct score){ .index = w->scores.n, .n = n };
    w->scores.n++;
    return 0;
}

static int add_records(struct run *r, struct source *source, struct err *err)
{
    struct work *w = r->work;

    w->scores.list = mem_array(source->n_records, 1, sizeof *w->scores.list, MEM_RECORD, err);
    w->record_of = mem_array(source->n_records, 2, sizeof *w->record_of, MEM_RECORD, err);
    if (!w->scores.list || !w->record_of ||
        samples_init(&r->inputs.eval, SAMPLE_TEXT, r->spec->max_seq_len, bpe_eos(r->inputs.tokenizer), err) != 0)
        return -1;
    for (int64_t i = 0; i < source->n_records; i++)
        if (add_record(r, source, i, err) != 0)
            return -1;
    return 0;
}

static void tell_cut(const struct samples *s)
{
    int64_t cut = 0;

    for (int64_t i = 0; i < s->n; i++)
        cut += s->rows[i].n_whole > s->rows[i].n;
    if (cut > 0)
        log_warning("%" PRId64 " of %" PRId64 " texts have more than %" PRId64 " ids and are scored where they are cut",
                    cut, s->n, s->max_ids);
}

static int data(struct run *r, struct err *err)
{
    const struct spec *s = r->spec;
    const struct batcher_options o = { .B = s->eval_batch,
                                       .T = s->max_seq_len,
                                       .rank = r->comm.rank,
                                       .ranks = r->comm.ranks,
                                       .trim = true,
                                       .in_order = true };
    struct source source = { 0 };

    r->work = mem_array(1, 1, sizeof(struct work), MEM_OTHER, err);
    if (!r->work || inputs_open_tokenizer(&r->inputs, s->model, &r->models[0].config, err) != 0 ||
        inputs_load_eval(s, &source, err) != 0)
        return -1;
    const int result = add_records(r, &source, err);
    inputs_tell_skipped(&source);
    source_free(&source);
    tell_cut(&r->inputs.eval);
    if (result != 0 || batcher_init(&r->eval, &r->inputs.eval, &o, err) != 0)
        return -1;
    return run_live_find(&r->eval, r, NULL, 1, INT64_MAX, &r->live.of[EXTENTS_SCORE], err);
}

static int start(struct run *r, struct err *err)
{
    const struct reward_options o = { .loss = REWARD_MASKED };
    struct work *w = r->work;

    (void)err;
    reward_init(&w->reward, &r->exec, &o);
    return 0;
}

static void close_work(struct run *r)
{
    struct work *w = r->work;

    if (w) {
        scores_free(&w->scores);
        mem_free(w->record_of);
    }
    mem_free(w);
    r->work = NULL;
}

/* This rank's rows of all; the others' places stay 0. The last batches repeat rows where ranks do not divide them. */
static int score_rows(struct run *r, double *values, double *rows, struct err *err)
{
    const struct batch *b = &r->eval.batch;
    struct work *w = r->work;
    int more;

    while ((more = batcher_step(&r->eval, err)) > 0) {
        struct run_context c = { .row_step = 1 };
        if (reward_score(&w->reward, b, &c, rows, err) != 0)
            return -1;
        for (int64_t i = 0; i < b->B; i++) {
            const int64_t place = b->first_row + i * b->row_stride;
            if (place < r->inputs.eval.n)
                values[place] = rows[i];
        }
    }
    return more;
}

static int score_all(struct run *r, struct err *err)
{
    struct work *w = r->work;
    const int64_t n = r->inputs.eval.n;
    double *values = mem_array(n, 1, sizeof *values, MEM_RECORD, err);
    double *rows = values ? mem_array(r->spec->eval_batch, 1, sizeof *rows, MEM_RECORD, err) : NULL;
    int result = rows ? score_rows(r, values, rows, err) : -1;

    if (comm_agree(&r->comm, result, err) != 0)
        result = -1;
    else
        result = r->comm.all_reduce(&r->comm, values, n, F64, err);
    for (int64_t i = 0; i < n && values && result == 0; i++) {
        const bool second = i > 0 && w->record_of[i - 1] == w->record_of[i];
        w->scores.list[w->record_of[i]].value[second] = values[i];
    }
    mem_free(values);
    mem_free(rows);
    return result;
}

int score_file(const struct run_request *q, struct scores *out, struct err *err)
{
    struct run r;
    int result;

    *out = (struct scores){ 0 };
    stop_prepare();
    result = setup_open(&r, q, false, err);
    if (result == 0)
        result = score_all(&r, err);
    if (result == 0)
        result = setup_files_unchanged(&r, err);
    if (result == 0) {
        struct work *w = r.work;
        *out = w->scores;
        out->tells = r.comm.rank == 0;
        w->scores = (struct scores){ 0 };
    } else {
        run_end_failed(&r, err);
    }
    setup_close(&r);
    return result;
}

void scores_free(struct scores *s)
{
    mem_free(s->list);
    *s = (struct scores){ 0 };
}

const struct run_form run_scores = {
    .models = models, .plan = plan, .data = data, .start = start, .close = close_work
};
