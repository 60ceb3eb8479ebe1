/* tuneup plan: the plan of a run as asked, for any size of model and any number of ranks; no tensor is allocated. */
#include <string.h>

#include "base/file.h"
#include "cli/command.h"
#include "measure/machine.h"
#include "plan/print.h"
#include "run/ppo_spec.h"
#include "run/run.h"

static struct spec one_model; /* phases 1 and 2 */
static struct ppo_spec four_models; /* phase 3 */
static struct spec plain_one;
static struct ppo_spec plain_four;
/* Of the command that runs. */
static const struct run_form *form;
static struct spec *spec, *plain_spec;
static struct plan_options {
    bool steps;
    int64_t rank;
} options;

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

static int switch_off(struct technique_values *v, struct err *err)
{
    struct option_set technique_options[TECHNIQUES_MAX];

    const int n = technique_sets(technique_options, v);
    option_defaults(technique_options, n);
    for (int i = 0; i < n; i++)
        for (const struct option *o = technique_options[i].options; o->name; o++)
            if (o->type == OPTION_FLAG && option_set_text(o, technique_options[i].values, "false", err) != 0)
                return -1;
    return 0;
}

/* The same run with every technique off. */
static int make_plain(struct err *err)
{
    plain_one = one_model;
    plain_four = four_models;
    plain_four.frozen = FROZEN_AS_RUN;
    if (switch_off(&plain_one.techniques, err) != 0 || switch_off(&plain_four.base.techniques, err) != 0 ||
        switch_off(&plain_four.actor, err) != 0)
        return -1;
    return switch_off(&plain_four.critic_techniques, err);
}

static int make_plan(const struct spec *s, const struct run_model *models, int ranks, struct plan *p, struct err *err)
{
    struct backend backend;
    struct exec exec = { 0 };
    struct comm comm;

    comm_alone(&comm);
    if (form->plan(s, models, true, (int)options.rank, ranks, p, err) != 0)
        return -1;
    if (backend_open(&backend, spec_backend_name(s), setup_threads(s, ranks), err) != 0)
        return -1;
    const int result = exec_prepare(&exec, p, &backend, &comm, err);
    exec_free(&exec);
    backend.close(&backend);
    return result;
}

/* Descriptions alone: of a folder, or of a published size. */
static int load_models(struct run_model *models, struct err *err)
{
    const int n = form->models(spec, true, models);

    for (int i = 0; i < n; i++) {
        struct run_model *m = &models[i];
        if (file_is_dir(m->dir) ? hf_config_load(&m->config, m->dir, err) != 0
                                : hf_config_named(&m->config, m->dir, err) != 0)
            return -1;
    }
    return 0;
}

static int check_limit(const struct run_model *models, const struct plan *p, struct err *err)
{
    const struct run_request request = { .form = form, .spec = spec };
    int64_t limit;

    if (!spec->memory_limit)
        return 0;
    if (spec_bytes(spec->memory_limit, &limit, err) != 0)
        return -1;
    return setup_fits(&request, models, true, p, 1, limit, err);
}

static int print_all(const struct plan *p, const struct plan *plain)
{
    if (spec->json) {
        json_t *json = print_plan_json(p);
        json_dumpf(json, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(json);
        return 0;
    }
    print_plan(stdout, p, plain);
    for (int i = 0; options.steps && i < p->n_programs; i++)
        print_program(stdout, p, i);
    return 0;
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

static int plan_and_print(struct err *err)
{
    const int ranks = spec->ranks > 0 ? (int)spec->ranks : 1;
    struct run_model models[RUN_MAX_MODELS] = { 0 };
    struct plan p = { 0 }, plain = { 0 };

    if (options.rank >= ranks)
        return err_set(err, ERR_USAGE, "--rank %d is not among %d ranks", (int)options.rank, ranks);
    int result = load_models(models, err);
    if (result == 0)
        result = make_plan(spec, models, ranks, &p, err);
    if (result == 0 && !spec->json)
        result = make_plain(err) != 0 ? -1 : make_plan(plain_spec, models, ranks, &plain, err);
    if (result == 0)
        result = print_all(&p, spec->json ? NULL : &plain);
    if (result == 0)
        result = check_limit(models, &p, err);
    plan_free(&p);
    plan_free(&plain);
    for (int i = 0; i < RUN_MAX_MODELS; i++)
        hf_config_free(&models[i].config);
    return result;
}

static int run(struct command_line *line, struct err *err)
{
    form = &run_batches;
    spec = &one_model;
    plain_spec = &plain_one;
    if (!spec->model || line->n_words > 1) {
        err_set(err, ERR_USAGE, "--model is needed, and at most the phase as a word");
        return err_hint(err, "For example: tuneup plan sft --model opt-13b --ranks 64 --zero_stage 1");
    }
    if (choose_phase(line->n_words == 1 ? line->words[0] : "sft", err) != 0)
        return -1;
    return plan_and_print(err);
}

static int ppo_run(struct command_line *line, struct err *err)
{
    form = &run_ppo;
    spec = &four_models.base;
    plain_spec = &plain_four.base;
    if (line->n_words > 0)
        return err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", line->words[0]);
    if (ppo_spec_complete(&four_models, err) != 0)
        return -1;
    return plan_and_print(err);
}

const struct command cmd_plan = {
    .name = "plan",
    .summary = "memory, work and communication of a run, before anything is allocated",
    .usage = "tuneup plan [sft|reward] --model DIR|SIZE [the phase's options] [--ranks N] [--memory_limit BYTES]",
    .examples = "  tuneup plan --model opt-13b --ranks 64 --zero_stage 1\n"
                "  tuneup plan sft --model opt-350m --dtype bf16 --gradient_checkpointing --memory_limit 8GiB\n"
                "  tuneup plan reward --model opt-350m --per_device_train_batch_size 4\n"
                "  tuneup plan --model DIR --ranks 2 --zero_stage 1 --json\n",
    .details = "SIZE is opt-125m, opt-350m, opt-1.3b ... opt-66b. \"without\" is the same run with every technique "
               "off. What is\n"
               "planned is what a run allocates, byte for byte. With --memory_limit the exit status is 3 when it does "
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
