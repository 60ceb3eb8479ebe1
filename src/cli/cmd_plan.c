/* tuneup plan: the plan of a run as asked, for any size of model and any number of ranks; no tensor is allocated. */
#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "cli/command.h"
#include "measure/machine.h"
#include "plan/print.h"
#include "run/calibrate.h"
#include "run/optimize.h"
#include "run/ppo_spec.h"
#include "run/run.h"
#include "store/adapter_dir.h"

static struct spec one_model; /* phases 1 and 2 */
static struct ppo_spec four_models; /* phase 3 */
/* Of the command that runs. */
static const struct run_form *form;
static struct spec *spec;
static struct plan_options {
    bool steps;
    int64_t rank, mean_length;
    const char *machine;
} options;
static enum rows_from { ROWS_FULL, ROWS_MEAN, ROWS_DATA } rows_from; /* what is known of their lengths */
static json_t *optimized; /* what --optimize switched on and left out; NULL: it was not asked */

static const struct option plan_table[] = {
    { .name = "steps",
      .type = OPTION_FLAG,
      .offset = offsetof(struct plan_options, steps),
      .help = "print every step of every program" },
    { .name = "rank",
      .type = OPTION_INT,
      .offset = offsetof(struct plan_options, rank),
      .fallback = "0",
      .min = 0,
      .max = 4095,
      .value = "N",
      .help = "whose plan; all ranks need the same memory" },
    { .name = "machine",
      .type = OPTION_STRING,
      .offset = offsetof(struct plan_options, machine),
      .value = "NAME",
      .help = "predict time and energy there, of the run and of each technique over the plain run: local (measured by "
              "tuneup doctor --profile), a profile's file, or a machine of docs/prediction.md such as h100-sxm" },
    { .name = "mean_length",
      .type = OPTION_INT,
      .offset = offsetof(struct plan_options, mean_length),
      .fallback = "0",
      .min = 0,
      .max = 1 << 20,
      .value = "N",
      .help = "predict with rows of N ids; 0: as the data have them, without data as long as --max_seq_len" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Plan", .options = plan_table, .values = &options };
    return 1 + spec_sets(&one_model, &phase_reward, &out[1]); /* phase 1 has no words of its own */
}

static int ppo_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Plan", .options = plan_table, .values = &options };
    return 1 + ppo_spec_sets(&four_models, &out[1]);
}

/* The description, and in what types the weights lie, where there are any. */
static int look_at(struct run_model *m, struct err *err)
{
    const int there = hf_config_load(&m->config, m->dir, err) == 0 ? model_dir_look(&m->files, m->dir, err) : -1;

    m->assumed = there == 0;
    return there < 0 ? -1 : 0;
}

/* Of a folder, or of a published size. No weights are read. */
static int load_models(struct run_model *models, struct err *err)
{
    const int n = form->models(spec, true, models);

    for (int i = 0; i < n; i++) {
        struct run_model *m = &models[i];
        m->assumed = true;
        if (file_is_dir(m->dir) ? look_at(m, err) != 0 : hf_config_named(&m->config, m->dir, err) != 0)
            return -1;
        if (m->adapter && adapter_dir_open(&m->adapter_files, m->adapter, err) != 0)
            return -1;
    }
    return 0;
}

static int check_limit(const struct optimize_question *q, const struct plan *p, struct err *err)
{
    int64_t limit;

    if (!spec->memory_limit)
        return 0;
    if (spec_bytes(spec->memory_limit, &limit, err) != 0)
        return -1;
    return setup_fits(q, p, limit, err);
}

/* ---- rows ---- */

static int refuse_mean(const char *why, const char *hint, struct err *err)
{
    err_set(err, ERR_USAGE, "--mean_length %" PRId64 " %s", options.mean_length, why);
    return err_hint(err, "%s", hint);
}

static int check_mean(struct err *err)
{
    if (form == &run_ppo)
        return refuse_mean("is for phases 1 and 2",
                           "Answers are predicted as long as they may be: lower --max_answer_seq_len, or name prompts "
                           "with --data_path.",
                           err);
    if (spec->data[0])
        return refuse_mean("stands beside --data_path, which tells lengths", "Give one of the two.", err);
    if (options.mean_length > spec->max_seq_len)
        return refuse_mean("is more than --max_seq_len", "Rows are cut to that.", err);
    if (!options.machine && spec->optimize == GOAL_OFF)
        return refuse_mean("changes predictions alone",
                           "Add --machine, or leave it away: memory is planned for the "
                           "largest batch.",
                           err);
    return 0;
}

/* All rows alike; padding to the maximum is worked on, and in the convention paper seen. */
static void set_mean(struct run_live *live)
{
    const int64_t each = spec->phase->samples == SAMPLE_PAIR ? 2 : 1, n = options.mean_length;
    const bool seen = spec->convention == SPEC_PAPER, padded = spec->pad_to_max || seen;

    for (int i = 0; i < 2; i++) {
        const int64_t places = each * (seen ? spec->max_seq_len : n) * (i == 0 ? spec->train_batch : spec->eval_batch);
        live->of[i == 0 ? EXTENTS_TRAIN : EXTENTS_EVAL] =
            (struct extents_live){ .mean = { places, places }, .mean_T = padded ? spec->max_seq_len : n };
    }
}

/* Of a size there is no tokenizer to count ids with. */
static int no_tokenizer(struct err *err)
{
    err_set(err, ERR_USAGE, "--data_path cannot be read for the size \"%.80s\", which has no tokenizer", spec->model);
    return err_hint(err, "Name a model's folder, or give --mean_length.");
}

static int find_rows(struct optimize_question *q, struct err *err)
{
    rows_from = options.mean_length > 0 ? ROWS_MEAN : ROWS_FULL;
    if (options.mean_length > 0 && check_mean(err) != 0)
        return -1;
    if (options.mean_length > 0)
        set_mean(&q->live);
    if (!spec->data[0])
        return 0;
    if (!file_is_dir(spec->model))
        return no_tokenizer(err);
    if (setup_live(form, spec, q->models, q->ranks, &q->live, err) != 0)
        return -1;
    rows_from = q->live.of[EXTENTS_TRAIN].mean[0] > 0 ? ROWS_DATA : ROWS_FULL; /* too many are not looked at */
    return 0;
}

static const struct extents_live *trained(const struct optimize_question *q)
{
    return &q->live.of[EXTENTS_TRAIN];
}

static void print_rows(const struct optimize_question *q)
{
    const int64_t T = trained(q)->mean_T;

    if (rows_from == ROWS_FULL)
        printf("rows: all as long as they may be; --data_path with a model's folder, or --mean_length, says how long "
               "yours are\n");
    else if (rows_from == ROWS_MEAN)
        printf("rows: of %" PRId64 " ids each (--mean_length)\n", options.mean_length);
    else if (T > 0)
        printf("rows: as in the data, where a batch has %" PRId64 " ids on the average, its rows cut to %" PRId64 "\n",
               trained(q)->mean[0], T);
    else
        printf("rows: prompts as in the data, answers as long as they may be: %" PRId64 " ids in a batch on the "
               "average\n",
               trained(q)->mean[0]);
}

static json_t *rows_json(const struct optimize_question *q)
{
    static const char *const names[] = { "full", "mean_length", "data" };

    return json_pack("{s:s, s:o, s:o}", "source", names[rows_from], "batch_ids",
                     rows_from == ROWS_FULL ? json_null() : json_integer((json_int_t)trained(q)->mean[0]), "cut_to",
                     trained(q)->mean_T > 0 ? json_integer((json_int_t)trained(q)->mean_T) : json_null());
}

/* ---- the prediction ---- */

static int no_machine(struct err *err)
{
    char names[512] = "";

    for (const struct profile *p = profile_machines; p->name[0]; p++)
        snprintf(names + strlen(names), sizeof names - strlen(names), ", %s", p->name);
    err_set(err, ERR_USAGE, "there is no machine \"%.80s\"", options.machine);
    return err_hint(err, "There are local%s; or name a file that `tuneup doctor --profile FILE` wrote.", names);
}

/* *p may be given to profile_free, whatever it is. */
static int load_machine(struct profile *p, struct err *err)
{
    const struct profile *published = profile_find(options.machine);
    char why[640];

    if (published) {
        *p = *published;
        return 0;
    }
    if (strcmp(options.machine, "local") != 0)
        return file_exists(options.machine) ? profile_load(p, options.machine, err) : no_machine(err);
    const int there = calibrate_local(p, why, sizeof why, err);
    return there > 0 ? 0 : there < 0 ? -1 : err_set(err, ERR_UNAVAILABLE, "%s", why);
}

static double ratio(double plain, double with)
{
    return with > 0 ? plain / with : 0;
}

/* The plain run and one technique, or the run as asked. */
static json_t *row_json(const struct optimize_cost *plain, const struct optimize_cost *c)
{
    return json_pack("{s:f, s:f, s:I, s:f, s:f, s:f, s:f}", "seconds", c->seconds, "communication_seconds",
                     c->communication_s, "peak_bytes", (json_int_t)c->bytes, "joules", c->joules, "speedup",
                     ratio(plain->seconds, c->seconds), "memoryup", ratio((double)plain->bytes, (double)c->bytes),
                     "energyup", ratio(plain->joules, c->joules));
}

static void print_row(const char *words, const struct optimize_cost *plain, const struct optimize_cost *c)
{
    char memory[PRINT_BYTES_MAX];

    printf("%-36s %10.4g %12s %12.4g %8.2f %9.2f %9.2f\n", words, c->seconds, print_bytes((double)c->bytes, memory),
           c->joules, ratio(plain->seconds, c->seconds), ratio((double)plain->bytes, (double)c->bytes),
           ratio(plain->joules, c->joules));
}

/* Each way of each technique alone over the plain run. rows: NULL for people. */
static int predict_techniques(const struct optimize_question *q, const struct optimize_cost *plain, json_t *rows)
{
    for (int i = 0; techniques[i]; i++)
        for (int k = 0; k < technique_ways(i); k++) {
            struct optimize_choice alone = optimize_plain();
            struct optimize_cost c;
            struct technique_values v;
            struct err refused;
            char words[64];

            alone.way[i] = k;
            technique_choose(&v, i, k);
            technique_print(i, k, words, sizeof words);
            const bool can = optimize_cost(q, &alone, &c, &refused) == 0;
            json_t *row = !rows ? NULL : can ? row_json(plain, &c) : json_pack("{s:s}", "refused", refused.what);
            if (row) {
                json_object_set_new(row, "technique", json_string(technique_name(&v, i)));
                json_object_set_new(row, "words", json_string(words));
                json_object_set_new(row, "exact", json_boolean(techniques[i]->exact));
                json_array_append_new(rows, row);
            } else if (can) {
                print_row(words, plain, &c);
            } else {
                printf("%-36s refused: %s\n", words, refused.what);
            }
        }
    return 0;
}

static void print_prediction(const struct optimize_question *q, const struct profile *machine,
                             const struct optimize_cost *plain, const struct optimize_cost *asked)
{
    const double memory = machine->figures[PROFILE_MEMORY].value / q->predictor->sharing;
    char have[PRINT_BYTES_MAX];

    printf("\npredicted on %s (%s)\n", machine->name, machine->describe);
    printf("memory: %s a rank there, %s\n", print_bytes(memory, have),
           (double)asked->bytes <= memory ? "the run fits" : "the run does NOT fit");
    print_rows(q);
    printf("\n");
    printf("%-36s %10s %12s %12s %8s %9s %9s\n", "an update of", "seconds", "memory", "~joules", "SpeedUp", "MemoryUp",
           "~EnergyUp");
    print_row("the plain run", plain, plain);
    predict_techniques(q, plain, NULL);
    print_row("the run as asked", plain, asked);
    printf(
        "\nAll of this is predicted, nothing measured: techniques alone over the plain run, %.3g s of the run as asked "
        "is\ncommunication. ~ is modelled from stated watts (docs/prediction.md).\n",
        asked->communication_s);
}

static json_t *prediction_json(const struct optimize_question *q, const struct profile *machine,
                               const struct optimize_cost *plain, const struct optimize_cost *asked)
{
    const double memory = machine->figures[PROFILE_MEMORY].value / q->predictor->sharing;
    json_t *rows = json_array();

    predict_techniques(q, plain, rows);
    return json_pack("{s:s, s:s, s:s, s:s, s:f, s:b, s:o, s:o, s:o, s:o}", "source", "predicted", "energy_source",
                     "modelled", "machine", machine->name, "describe", machine->describe, "memory_bytes", memory,
                     "fits", (int)((double)asked->bytes <= memory), "rows", rows_json(q), "plain",
                     row_json(plain, plain), "run", row_json(plain, asked), "techniques", rows);
}

/* Beside the plan; *json: where it goes, NULL for people. */
static int predict(struct optimize_question *q, const struct profile *machine, json_t *json, struct err *err)
{
    const struct optimize_choice off = optimize_plain(), keep = optimize_keep();
    struct optimize_cost plain, asked;

    MUST(q->predictor);
    if (optimize_cost(q, &off, &plain, err) != 0 || optimize_cost(q, &keep, &asked, err) != 0)
        return -1;
    if (json)
        json_object_set_new(json, "prediction", prediction_json(q, machine, &plain, &asked));
    else
        print_prediction(q, machine, &plain, &asked);
    return 0;
}

/* ---- the plan ---- */

static void print_all(const struct plan *p, const struct plan *plain)
{
    print_plan(stdout, p, plain);
    for (int i = 0; options.steps && i < p->n_programs; i++)
        print_program(stdout, p, i);
}

static void print_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(json);
}

static int choose_phase(const char *name, struct err *err)
{
    static const struct phase *const phases[] = { &phase_sft, &phase_reward };

    for (int i = 0; i < COUNT_OF(phases); i++)
        if (strcmp(phases[i]->name, name) == 0) {
            one_model.phase = phases[i];
            return 0;
        }
    err_set(err, ERR_USAGE, "there is no phase \"%.40s\"", name);
    return err_hint(err, "The phases that can be planned are sft, reward and ppo, which is the first word then.");
}

static int make_and_print(struct optimize_question *q, const struct profile *machine, struct err *err)
{
    const struct optimize_choice off = optimize_plain(), keep = optimize_keep();
    struct plan p = { 0 }, plain = { 0 };
    json_t *json = NULL;

    int result = optimize_plan(q, &keep, &p, err);
    if (result == 0 && spec->json)
        json = print_plan_json(&p);
    else if (result == 0 && (result = optimize_plan(q, &off, &plain, err)) == 0)
        print_all(&p, &plain);
    if (result == 0 && options.machine)
        result = predict(q, machine, json, err);
    if (json && optimized) {
        json_object_set(json, "optimize", json_object_get(optimized, "on"));
        json_object_set(json, "optimize_left_out", json_object_get(optimized, "left_out"));
    }
    if (result == 0 && json)
        print_json(json_incref(json));
    if (result == 0)
        result = check_limit(q, &p, err);
    json_decref(json);
    plan_free(&p);
    plan_free(&plain);
    return result;
}

/* --optimize: the words become the best ones. */
static int optimize(struct optimize_question *q, const struct command_line *line, struct err *err)
{
    struct optimize_choice best;
    struct optimize_cost cost;

    if (spec->optimize == GOAL_OFF)
        return 0;
    optimize_pin(q, line->given, line->n_given);
    if (optimize_search(q, spec->optimize, &best, &cost, err) != 0)
        return -1;
    optimize_apply(q, spec, &best);
    json_decref(optimized);
    optimized = optimize_explain(q, &best, &cost);
    return 0;
}

static int plan_on(const struct optimize_question *asked, const struct command_line *line, struct err *err)
{
    struct optimize_question q = *asked;
    struct profile machine = { 0 };
    struct predictor predictor = { 0 };
    int result = 0;

    if (options.machine)
        result = load_machine(&machine, err);
    else if (spec->optimize != GOAL_OFF)
        result = calibrate_local_or_assumed(&machine, err);
    if (result == 0 && machine.name[0]) {
        const bool here = !options.machine || strcmp(options.machine, "local") == 0;
        const int threads = here ? setup_threads(spec, q.ranks) : (int)spec->threads;
        result = predict_open(&predictor, &machine, q.ranks, q.ranks, threads, err);
        q.predictor = &predictor;
    }
    if (result == 0)
        result = optimize(&q, line, err);
    if (result == 0)
        result = make_and_print(&q, &machine, err);
    predict_close(&predictor);
    profile_free(&machine);
    json_decref(optimized);
    optimized = NULL;
    return result;
}

static int plan_and_print(const struct command_line *line, struct err *err)
{
    const int ranks = spec->ranks > 0 ? (int)spec->ranks : 1;
    struct run_model models[RUN_MAX_MODELS] = { 0 };
    struct backend backend;
    struct optimize_question q = { .form = form,
                                   .spec = spec,
                                   .models = models,
                                   .trains = true,
                                   .rank = (int)options.rank,
                                   .ranks = ranks,
                                   .local_ranks = 1,
                                   .backend = &backend };

    if (spec_check_optimize(spec, err) != 0)
        return -1;
    if (options.rank >= ranks)
        return err_set(err, ERR_USAGE, "--rank %d is not among %d ranks", (int)options.rank, ranks);
    if (backend_open(&backend, spec_backend_name(spec), setup_threads(spec, ranks), err) != 0)
        return -1;
    int result = load_models(models, err);
    if (result == 0)
        result = find_rows(&q, err);
    if (result == 0)
        result = plan_on(&q, line, err);
    for (int i = 0; i < RUN_MAX_MODELS; i++) {
        model_dir_close(&models[i].files);
        model_dir_close(&models[i].adapter_files);
        hf_config_free(&models[i].config);
    }
    backend.close(&backend);
    return result;
}

static int run(struct command_line *line, struct err *err)
{
    form = &run_batches;
    spec = &one_model;
    if (!spec->model || line->n_words > 1) {
        err_set(err, ERR_USAGE, "--model is needed, and at most the phase as a word");
        return err_hint(err, "For example: tuneup plan sft --model opt-13b --ranks 64 --zero_stage 1");
    }
    if (choose_phase(line->n_words == 1 ? line->words[0] : "sft", err) != 0)
        return -1;
    return plan_and_print(line, err);
}

static int ppo_run(struct command_line *line, struct err *err)
{
    form = &run_ppo;
    spec = &four_models.base;
    if (line->n_words > 0)
        return err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", line->words[0]);
    if (ppo_spec_complete(&four_models, err) != 0)
        return -1;
    return plan_and_print(line, err);
}

const struct command cmd_plan = {
    .name = "plan",
    .summary = "memory, work and communication of a run, before anything is allocated",
    .usage = "tuneup plan [sft|reward] --model DIR|SIZE [the phase's options] [--ranks N] [--memory_limit BYTES]",
    .examples = "  tuneup plan --model opt-13b --ranks 64 --zero_stage 1\n"
                "  tuneup plan sft --model opt-350m --dtype bf16 --gradient_checkpointing --memory_limit 8GiB\n"
                "  tuneup plan reward --model opt-350m --per_device_train_batch_size 4\n"
                "  tuneup plan sft --model opt-13b --machine h100-sxm --ranks 8 --zero_stage 1 --mean_length 200\n"
                "  tuneup plan sft --model opt-350m --machine local --optimize memory\n"
                "  tuneup plan --model DIR --ranks 2 --zero_stage 1 --json\n",
    .details =
        "SIZE is opt-125m, opt-350m, opt-1.3b ... opt-66b. \"without\" is the same run with every technique "
        "off. What is\n"
        "planned is what a run allocates, byte for byte: with --data_path for the largest batch of these data, as "
        "a run does.\nWith --memory_limit the exit status is 3 when it does "
        "not fit.",
    .sets = sets,
    .run = run,
};

const struct command cmd_plan_ppo = {
    .name = "plan ppo",
    .summary = "the same of phase 3, four models in one plan",
    .usage = "tuneup plan ppo --actor DIR|SIZE --critic DIR|SIZE [the phase's options] [--ranks N]",
    .examples = "  tuneup plan ppo --actor opt-350m --critic opt-350m --dtype bf16\n"
                "  tuneup plan ppo --actor opt-1.3b --critic opt-350m --per_device_training_batch_size 4 --json\n",
    .details =
        "What an update is elsewhere is an iteration here: prompts answered by as many ids as are allowed, scored, "
        "and learnt\n"
        "from by actor and critic.",
    .sets = ppo_sets,
    .run = ppo_run,
};
