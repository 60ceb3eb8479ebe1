/* Phase 3 from words to programs: four models of two learners and two judges, prompts, and what a bad combination of them is
 * told. */
#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/ppo_run.h"

#define AVERAGE_DECAY 0.992
#define AVERAGE_PREFIX "actor_ema/"

int ppo_models(const struct spec *base, bool trains, struct run_model *m)
{
    const struct ppo_spec *s = ppo_spec_of(base);

    const char *const actors = technique_text(&s->actor, "lora_adapter");
    const char *const critics = technique_text(&s->critic_techniques, "lora_adapter");

    m[PPO_ACTOR] = (struct run_model){ .prefix = "actor/", .dir = base->model, .adapter = actors, .learns = trains };
    m[PPO_REFERENCE] = (struct run_model){ .prefix = "reference/", .dir = s->reference, .adapter = actors };
    m[PPO_CRITIC] = (struct run_model){
        .prefix = "critic/", .dir = s->critic, .adapter = critics, .value_head = true, .learns = trains
    };
    m[PPO_REWARD_MODEL] =
        (struct run_model){ .prefix = "reward/", .dir = s->reward, .adapter = critics, .value_head = true };
    if (!s->average)
        return PPO_AVERAGE;
    m[PPO_AVERAGE] =
        (struct run_model){ .prefix = AVERAGE_PREFIX, .dir = base->model, .adapter = actors, .learns = trains };
    return PPO_AVERAGE + 1;
}

/* ---- the plan ---- */

static int set_option(struct technique_values *v, const char *technique, const char *option, const char *text,
                      struct err *err)
{
    const int t = technique_find(technique);
    const struct option *o = techniques[t]->options;

    while (strcmp(o->name, option) != 0)
        o++;
    return option_set_text(o, v->slot[t], text, err);
}

/* The techniques of a model that only scores are those of the one it is like, in a type and a place of its own: but in that
 * one's type where they can share weights, which then are in memory anyway. */
static int frozen_like(const struct ppo_spec *s, const struct technique_values *like, bool shares, bool offloaded,
                       struct technique_values *out, struct err *err)
{
    *out = *like;
    technique_forget(out);
    if (set_option(out, "offload", "offload_params", offloaded ? "true" : "false", err) != 0)
        return -1;
    return s->frozen == FROZEN_AS_RUN || (shares && !offloaded && technique_freezes(like))
               ? 0
               : set_option(out, "mixed_precision", "dtype", s->frozen == FROZEN_BF16 ? "bf16" : "fp32", err);
}

/* However the folder is written. A language model and a reward model are never the same. */
static bool same_files(const struct run_model *m, int a, int b)
{
    return m[a].value_head == m[b].value_head && (strcmp(m[a].dir, m[b].dir) == 0 || file_is_same(m[a].dir, m[b].dir));
}

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

static void set_extents(const struct ppo_spec *s, struct extents *x)
{
    const int64_t P = s->base.max_seq_len, S = P + s->max_answer, rows = s->base.train_batch;
    const int64_t rollouts = ppo_spec_rollouts(s), answers = rollouts * s->generation_batch;
    const double each = (double)pieces(answers, rows);

    x[EXTENTS_PREFILL] = (struct extents){ .B = s->generation_batch, .T = P, .S = S, .times = (double)rollouts };
    x[EXTENTS_DECODE] =
        (struct extents){ .B = s->generation_batch, .T = 1, .S = S, .times = (double)(rollouts * s->max_answer) };
    x[EXTENTS_SCORE] = (struct extents){ .B = rows, .T = S, .times = each };
    x[EXTENTS_TRAIN] = (struct extents){ .B = rows, .T = S, .times = each * (double)s->ppo_epochs };
    if (s->unsupervised)
        x[EXTENTS_TEXT] = x[EXTENTS_TRAIN];
}

/* Updates that an iteration makes of all its answers. */
static int64_t updates_each(const struct ppo_spec *s)
{
    const struct ppo_settings settings = ppo_spec_settings(s);

    return ppo_updates(&settings, s->base.train_batch, ppo_spec_rollouts(s) * s->generation_batch);
}

static int check_shapes(const struct ppo_spec *s, const struct run_model *m, struct err *err)
{
    const int64_t T = s->base.max_seq_len + s->max_answer;

    for (int i = 0; i < PPO_AVERAGE; i++) {
        if (m[i].config.max_positions < T) {
            err_set(err, ERR_USAGE,
                    "prompt and answer take up to %" PRId64 " ids, the model in \"%s\" has %" PRId64 " positions", T,
                    m[i].dir, m[i].config.max_positions);
            return err_hint(err, "Lower --max_prompt_seq_len or --max_answer_seq_len.");
        }
        if (m[i].config.vocab_size == m[PPO_ACTOR].config.vocab_size)
            continue;
        err_set(err, ERR_INPUT, "the actor has %" PRId64 " embeddings, the model in \"%s\" has %" PRId64,
                m[PPO_ACTOR].config.vocab_size, m[i].dir, m[i].config.vocab_size);
        return err_hint(err, "All four models read the same ids: train them with one tokenizer.");
    }
    return 0;
}

int ppo_plan(const struct spec *base, const struct run_model *m, bool trains, int rank, int ranks,
             const struct run_live *live, struct plan *p, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(base);
    struct technique_values reference, reward;
    const struct technique_values *const values[] = { &s->actor, &reference, &s->critic_techniques, &reward };
    const double dropouts[] = { base->dropout, 0, s->critic_dropout, 0 };
    struct build b = { .phase = &phase_ppo,
                       .n_models = PPO_AVERAGE,
                       .micro_steps = base->accumulation,
                       .rank = rank,
                       .ranks = ranks,
                       .averaged = s->average ? m[PPO_ACTOR].prefix : NULL,
                       .average = AVERAGE_PREFIX,
                       .average_decay = AVERAGE_DECAY };

    (void)trains;
    set_extents(s, b.extents);
    for (int i = 0; i < EXTENTS_N; i++)
        b.extents[i].live = live->of[i];
    if (check_shapes(s, m, err) != 0 ||
        frozen_like(s, &s->actor, same_files(m, PPO_ACTOR, PPO_REFERENCE), s->offload_reference, &reference, err) !=
            0 ||
        frozen_like(s, &s->critic_techniques, same_files(m, PPO_CRITIC, PPO_REWARD_MODEL), s->offload_reward, &reward,
                    err) != 0)
        return -1;
    for (int i = 0; i < PPO_AVERAGE; i++) {
        b.models[i].prefix = m[i].prefix;
        b.models[i].techniques = values[i];
        b.models[i].stored = &m[i].files;
        b.models[i].adapter = &m[i].adapter_files;
        b.models[i].assumed = m[i].assumed;
        b.models[i].files = same_files(m, i, i - i % 2) ? i - i % 2 + 1 : 0;
        if (build_shape(&m[i].config, dropouts[i], &b.models[i].shape, err) != 0)
            return -1;
    }
    if (build_plan(&b, p, err) != 0)
        return -1;
    for (int i = 0; i < p->n_programs; i++) /* reduce, update: what is in no extents */
        if (p->programs[i].B == 0 && p->programs[i].steps[0].pass == PASS_UPDATE)
            p->programs[i].times = (double)updates_each(s);
    return 0;
}

int ppo_techniques(struct spec *base, struct technique_values **out)
{
    struct ppo_spec *s = (struct ppo_spec *)base;

    out[0] = &s->base.techniques;
    out[1] = &s->actor;
    out[2] = &s->critic_techniques;
    return 3;
}

/* Reference and reward model in the type of actor and critic. */
void ppo_plain(struct spec *base)
{
    ((struct ppo_spec *)base)->frozen = FROZEN_AS_RUN;
}

/* ---- data ---- */

static bool same_strings(const struct strings *a, const struct strings *b)
{
    if (a->n != b->n)
        return false;
    for (int32_t i = 0; i < a->n; i++) {
        const struct span x = strings_get(a, i), y = strings_get(b, i);
        if (x.n != y.n || (x.n > 0 && memcmp(x.s, y.s, x.n) != 0))
            return false;
    }
    return true;
}

static bool same_tokenizers(const struct bpe *a, const struct bpe *b)
{
    return a->eos == b->eos && a->bos == b->bos && same_strings(&a->vocab.texts, &b->vocab.texts) &&
           a->vocab.n_merges == b->vocab.n_merges &&
           memcmp(a->vocab.merges, b->vocab.merges, (size_t)a->vocab.n_merges * sizeof *a->vocab.merges) == 0;
}

/* Ids that mean one thing to the actor and another to its judges would be scored all the same. */
static int check_tokenizer(const struct run *r, const char *dir, struct err *err)
{
    struct bpe *other = NULL;

    if (bpe_open(&other, dir, err) != 0)
        return -1;
    const bool same = same_tokenizers(r->inputs.tokenizer, other);
    bpe_close(other);
    if (same)
        return 0;
    err_set(err, ERR_INPUT, "the tokenizer in \"%s\" is not the actor's, in \"%s\"", dir, r->models[PPO_ACTOR].dir);
    return err_hint(err, "All four models read the same ids: train them with one tokenizer.");
}

static int check_tokenizers(const struct run *r, struct err *err)
{
    for (int i = PPO_REFERENCE; i < PPO_AVERAGE; i++)
        if (strcmp(r->models[i].dir, r->models[PPO_ACTOR].dir) != 0 && check_tokenizer(r, r->models[i].dir, err) != 0)
            return -1;
    return 0;
}

static void tell_dropped(const struct run *r)
{
    const int64_t n = r->inputs.train.n_dropped + r->inputs.eval.n_dropped;

    if (n > 0)
        log_warning("%" PRId64 " prompts are longer than --max_prompt_seq_len %" PRId64 " and are left out; %" PRId64
                    " are used",
                    n, r->spec->max_seq_len, r->inputs.train.n + r->inputs.eval.n);
}

static int open_texts(struct run *r, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    struct ppo_work *w = ppo_work_of(r);
    const struct batcher_options o = { .B = s->base.train_batch,
                                       .T = s->base.max_seq_len + s->max_answer,
                                       .rank = r->comm.rank,
                                       .ranks = r->comm.ranks,
                                       .seed = (uint64_t)s->base.seed };

    if (!s->unsupervised)
        return 0;
    return ppo_texts(r, &w->texts, err) != 0 ? -1 : batcher_init(&w->text_batches, &w->texts, &o, err);
}

/* Rows of prompts become pieces of so many answers; what the largest piece may have live when all answers are as long as they
 * may be. */
struct live_pieces {
    int64_t size, answer; /* rows of a piece, ids of an answer */
    int64_t rows, sum, most;
    int64_t pieces, total;
};

static void end_piece(struct live_pieces *p)
{
    p->most = p->sum > p->most ? p->sum : p->most;
    p->pieces += p->rows > 0;
    p->total += p->sum;
    p->rows = p->sum = 0;
}

static void add_prompts(struct live_pieces *p, const struct batch *b)
{
    for (int64_t row = 0; row < b->B; row++) {
        p->sum += b->spans[2 * row + 1] - b->spans[2 * row] + p->answer;
        if (++p->rows == p->size)
            end_piece(p);
    }
}

/* n times `each` batches, through the epochs, of one rank. */
static int add_iterations(struct live_pieces *p, struct batcher *b, int64_t n, int64_t each, struct err *err)
{
    if (batcher_epoch(b, 0, err) != 0)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < each; k++) {
            int more = batcher_step(b, err);
            if (more == 0 && batcher_epoch(b, b->epoch + 1, err) == 0)
                more = batcher_step(b, err);
            if (more <= 0)
                return -1;
            add_prompts(p, &b->batch);
        }
        end_piece(p);
    }
    return 0;
}

static int live_of(struct run *r, struct batcher *b, int64_t n, int64_t each, struct extents_live *out, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    struct live_pieces p = { .size = s->base.train_batch, .answer = s->max_answer };
    const int own = b->options.rank;
    int result = 0;

    for (int rank = 0; n * each <= RUN_LIVE_BATCHES && rank < b->options.ranks && result == 0; rank++) {
        b->options.rank = rank;
        result = add_iterations(&p, b, n, each, err);
    }
    b->options.rank = own;
    out->most[0] = out->most[1] = p.most;
    out->mean[0] = out->mean[1] = p.pieces > 0 ? p.total / p.pieces : 0;
    return result == 0 ? batcher_epoch(b, 0, err) : -1;
}

static int64_t iterations(const struct run *r)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);

    return s->base.max_steps > 0 ? s->base.max_steps : batcher_steps(&r->train) * s->base.epochs / ppo_spec_rollouts(s);
}

/* What all batches of prompts and of texts have live, of every iteration and of an evaluation. */
static int find_live(struct run *r, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    struct batcher *texts = &ppo_work_of(r)->text_batches;
    const int64_t rollouts = ppo_spec_rollouts(s), n = iterations(r);
    struct extents_live *train = &r->live.of[EXTENTS_TRAIN], *score = &r->live.of[EXTENTS_SCORE], evaluated = { 0 };

    if (live_of(r, &r->train, n, rollouts, train, err) != 0 ||
        (r->eval.samples && live_of(r, &r->eval, batcher_steps(&r->eval), 1, &evaluated, err) != 0))
        return -1;
    const int64_t most = train->most[0] > evaluated.most[0] ? train->most[0] : evaluated.most[0];
    *score = *train;
    score->most[0] = score->most[1] = train->most[0] > 0 && (!r->eval.samples || evaluated.most[0] > 0) ? most : 0;
    const int64_t pieces_each = pieces(rollouts * s->generation_batch, s->base.train_batch) * s->ppo_epochs;
    return texts->samples
               ? run_live_find(texts, r, &phase_sft, INT64_MAX, n * pieces_each, &r->live.of[EXTENTS_TEXT], err)
               : 0;
}

int ppo_data(struct run *r, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    struct batcher_options o = { .B = s->generation_batch,
                                 .T = s->base.max_seq_len,
                                 .rank = r->comm.rank,
                                 .ranks = r->comm.ranks,
                                 .seed = (uint64_t)s->base.seed,
                                 .trim = true,
                                 .reference_order = s->base.convention != SPEC_TUNEUP };

    r->work = mem_array(1, 1, sizeof(struct ppo_work), MEM_OTHER, err);
    if (!r->work || inputs_open(&r->inputs, r->spec, &r->models[PPO_ACTOR].config, false, err) != 0 ||
        check_tokenizers(r, err) != 0 || batcher_init(&r->train, &r->inputs.train, &o, err) != 0 ||
        open_texts(r, err) != 0)
        return -1;
    tell_dropped(r);
    if (r->inputs.eval.n > 0 && r->spec->eval_batches != 0 && batcher_init(&r->eval, &r->inputs.eval, &o, err) != 0)
        return -1;
    return find_live(r, err);
}

/* ---- start ---- */

static int allocate(struct run *r, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    struct ppo_work *w = ppo_work_of(r);
    const int64_t B = s->generation_batch;
    const struct generate_options o = {
        .max_new_tokens = s->max_answer,
        .min_new_tokens = s->min_answer,
        .sampling = { s->temperature, s->top_k, s->top_p, (uint64_t)s->base.seed },
        .end_id = bpe_eos(r->inputs.tokenizer),
        .pad_id = bpe_eos(r->inputs.tokenizer),
        .weights_move = true,
        .describe = true,
    };

    w->numbers = mem_array(B, 1, sizeof *w->numbers, MEM_BATCH, err);
    w->begin = mem_array(B, 1, sizeof *w->begin, MEM_BATCH, err);
    w->end = mem_array(B, 1, sizeof *w->end, MEM_BATCH, err);
    w->ratios = mem_array(r->comm.ranks, 1, sizeof *w->ratios, MEM_RECORD, err);
    if (!w->numbers || !w->begin || !w->end || !w->ratios)
        return -1;
    if (ppo_experience_init(&w->answers, ppo_spec_rollouts(s) * B, s->base.max_seq_len + s->max_answer, err) != 0)
        return -1;
    return generator_init(&w->generator, &r->exec, "actor/", &o, err);
}

/* Iterations, and with them updates: as many as full ones fit into the epochs. What is left over at the end is said. */
static int count_iterations(struct run *r, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    const int64_t each = ppo_spec_rollouts(s), batches = batcher_steps(&r->train) * s->base.epochs;

    r->total_updates = iterations(r);
    if (s->base.max_steps == 0 && batches % each != 0 && batches > each)
        log_note("the last %" PRId64 " batches of prompts are too few for an iteration of %" PRId64, batches % each,
                 each);
    if (r->total_updates > 0)
        return 0;
    err_set(err, ERR_INPUT, "the prompts make %" PRId64 " batches, one iteration takes %" PRId64, batches, each);
    return err_hint(err, "Lower --generation_batches, --gradient_accumulation_steps or "
                         "--per_device_generation_batch_size, or give more records.");
}

/* The reference plans its schedule by another count, which leaves out --generation_batches. */
static int64_t schedule_length(const struct run *r)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    int64_t batches = batcher_steps(&r->train);

    if (s->base.convention == SPEC_TUNEUP || s->base.max_steps > 0)
        return r->total_updates * updates_each(s);
    if (s->unsupervised && batcher_steps(&ppo_work_of(r)->text_batches) < batches)
        batches = batcher_steps(&ppo_work_of(r)->text_batches);
    return (int64_t)((double)(s->base.epochs * batches * s->ppo_epochs) * (double)s->generation_batch /
                     (double)(s->base.train_batch * s->base.accumulation));
}

int ppo_start(struct run *r, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    const struct ppo_settings settings = ppo_spec_settings(s);
    struct ppo_work *w = ppo_work_of(r);

    if (allocate(r, err) != 0 || count_iterations(r, err) != 0)
        return -1;
    struct trainer_options o = setup_trainer_options(r->spec, schedule_length(r));
    trainer_init(&r->models[PPO_ACTOR].trainer, &r->exec, r->models[PPO_ACTOR].prefix, &o);
    o.learning_rate = s->critic_rate;
    o.weight_decay = s->critic_decay;
    trainer_init(&r->models[PPO_CRITIC].trainer, &r->exec, r->models[PPO_CRITIC].prefix, &o);
    ppo_open(&w->ppo, &r->exec, &settings);
    w->ppo.actor = &r->models[PPO_ACTOR].trainer;
    w->ppo.critic = &r->models[PPO_CRITIC].trainer;
    w->ppo.unsupervised = s->unsupervised ? &w->text_batches : NULL;
    return 0;
}

void ppo_close(struct run *r)
{
    struct ppo_work *w = ppo_work_of(r);

    if (!w)
        return;
    ppo_experience_free(&w->answers);
    generator_free(&w->generator);
    batcher_free(&w->text_batches);
    samples_free(&w->texts);
    mem_free(w->numbers);
    mem_free(w->begin);
    mem_free(w->end);
    mem_free(w->ratios);
    mem_free(w);
    r->work = NULL;
}
