/* What a step does not need, in files, the tier below main memory: as ZeRO-Infinity does with NVMe (Rajbhandari et al. 2021,
 * arXiv:2104.07857, sections 5.2 and 6.3). The optimizer's state, with the master weights: an AdamW step over a range becomes
 * one over pieces of it, which are read ahead and written behind while another is worked on; with the piece of the weights itself,
 * where those are in files too (offload_params.c). All of it are steps of the plan, and the numbers are the same bits. The last of the techniques that know AdamW: it takes shards, types
 * and codes as it finds them. */
#include "techniques/offload.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"

#define AHEAD 2 /* pieces that are being read, and as many that are being written */

static const struct option options[] = {
    { .name = "offload",
      .type = OPTION_FLAG,
      .offset = offsetof(struct offload_options, state),
      .help = "optimizer state and master weights in files, read and written in every update" },
    { .name = "offload_params",
      .type = OPTION_FLAG,
      .offset = offsetof(struct offload_options, params),
      .help = "weights in files too, read in every pass; not those of a model that answers" },
    { .name = "offload_dir",
      .type = OPTION_STRING,
      .offset = offsetof(struct offload_options, folder),
      .value = "DIR",
      .help = "a folder on a fast local disk for them; default: the output folder" },
    { .name = "offload_piece",
      .type = OPTION_INT,
      .offset = offsetof(struct offload_options, piece),
      .fallback = "0",
      .min = 0,
      .max = 1 << 30,
      .value = "N",
      .help = "weights whose state is moved at a time; 0: by the size of the model" },
    { 0 },
};

static bool is_on(const void *options_given)
{
    const struct offload_options *o = options_given;

    return o->state || o->params;
}

static int check(const void *options_given, const struct run_facts *facts, struct err *err)
{
    const struct offload_options *o = options_given;

    if (!o->params || o->state || !facts->trains)
        return 0;
    err_set(err, ERR_USAGE, "--offload_params alone is not supported for a model that learns");
    return err_hint(err, "Add --offload: an update moves the weights together with the optimizer's state.");
}

/* ---- steps and buffers ---- */

int offload_stage(struct plan *p, int program, int of, int64_t begin, int64_t count, struct err *err)
{
    const struct buffer *from = &p->buffers[of];
    const bool whole = begin == 0 && count == shape_count(&from->shape);
    struct buffer b = { .kind = KIND_WORKSPACE,
                        .dtype = from->dtype,
                        .shape = whole ? from->shape : shape_of(1, count),
                        .shards = 1,
                        .parent = -1,
                        .group = -1,
                        .staging = true,
                        .stages = of,
                        .program = program,
                        .by = "offload",
                        .model = from->model };

    MUST(from->tier == TIER_FILE);
    b.name = plan_name(p, err, "stage/%s.%" PRId64, from->name, begin);
    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

int offload_move(struct plan *p, int program, enum op op, int file, int staged, int64_t begin, struct err *err)
{
    struct op_step s = plan_step(op, "offload");

    s.in[0] = op == OP_FILE_READ ? file : staged;
    s.out[0] = op == OP_FILE_READ ? staged : file;
    s.attrs.begin = begin;
    s.attrs.count = shape_count(&p->buffers[staged].shape);
    return offload_add(p, program, &s, err);
}

struct op_step *offload_take_steps(struct plan *p, int program, int *n, struct err *err)
{
    struct program *g = &p->programs[program];
    struct op_step *steps = mem_array(g->n_steps, 1, sizeof *steps, MEM_PLAN, err);

    if (!steps)
        return NULL;
    memcpy(steps, g->steps, (size_t)g->n_steps * sizeof *steps);
    *n = g->n_steps;
    g->n_steps = 0;
    return steps;
}

int offload_add(struct plan *p, int program, const struct op_step *s, struct err *err)
{
    return plan_insert(p, program, p->programs[program].n_steps, s, err);
}

/* ---- optimizer state ---- */

/* Of a multiple of this many elements every state, down to the scales of 8-bit moments, begins and ends on a block of the file. */
#define WHOLE_PIECE ((int64_t)PLAN_FILE_BLOCK / 4 * STATE_BLOCK)

/* A 256th of what there is: all pieces on their way are then a small part of it. */
static int64_t piece_of(const struct offload_options *o, int64_t count)
{
    const int64_t most = 32 * WHOLE_PIECE, part = count / 256 / WHOLE_PIECE * WHOLE_PIECE;

    if (o->piece > 0)
        return (o->piece + STATE_BLOCK - 1) / STATE_BLOCK * STATE_BLOCK;
    return part < WHOLE_PIECE ? WHOLE_PIECE : part > most ? most : part;
}

/* A part of an AdamW step, whose outputs are the weights and, from 1 on, their state. */
struct piece {
    const struct op_step *whole;
    int64_t begin, count; /* of its range */
    int staged[OP_MAX_OUT]; /* -1: there is none, or it is in memory */
};

struct walk {
    struct plan *p;
    int program;
    struct op_step *steps; /* as they were */
    int n_steps;
    struct piece *pieces; /* of all AdamW steps, in their order */
    int64_t n_pieces;
};

static bool is_adamw(const struct op_step *s)
{
    return (s->op == OP_ADAMW || s->op == OP_ADAMW8) && s->attrs.count > 0;
}

/* Elements of output k for so many weights. */
static int64_t elements(const struct op_step *whole, int k, int64_t weights)
{
    const bool scales = whole->op == OP_ADAMW8 && k >= 4;

    return scales ? (weights + STATE_BLOCK - 1) / STATE_BLOCK : weights;
}

/* Where a piece begins in output k: state begins with the step's range. */
static int64_t begin_of(const struct piece *c, int k)
{
    return k == 0 ? c->whole->attrs.begin + c->begin : elements(c->whole, k, c->begin);
}

static int stage_piece(struct walk *w, struct piece *c, struct err *err)
{
    for (int k = 0; k < OP_MAX_OUT; k++) {
        const int of = c->whole->out[k];

        c->staged[k] = -1;
        if (of < 0 || w->p->buffers[of].tier != TIER_FILE)
            continue;
        c->staged[k] = offload_stage(w->p, w->program, of, begin_of(c, k), elements(c->whole, k, c->count), err);
        if (c->staged[k] < 0)
            return -1;
    }
    return 0;
}

static void move_state(struct plan *p, const struct op_step *adamw)
{
    for (int k = 1; k < OP_MAX_OUT; k++)
        if (adamw->out[k] >= 0) {
            p->buffers[adamw->out[k]].tier = TIER_FILE;
            p->buffers[adamw->out[k]].by = "offload";
        }
}

static int cut(struct walk *w, const struct offload_options *o, struct err *err)
{
    for (int i = 0; i < w->n_steps; i++) {
        const struct op_step *s = &w->steps[i];
        const int64_t size = piece_of(o, s->attrs.count), n = (s->attrs.count + size - 1) / size;

        if (!is_adamw(s))
            continue;
        move_state(w->p, s);
        struct piece *more = mem_resize(w->pieces, w->n_pieces + n, sizeof *more, MEM_PLAN, err);
        if (!more)
            return -1;
        w->pieces = more;
        for (int64_t at = 0; at < s->attrs.count; at += size) {
            struct piece *c = &w->pieces[w->n_pieces++];
            const int64_t left = s->attrs.count - at;

            *c = (struct piece){ .whole = s, .begin = at, .count = left < size ? left : size };
            if (stage_piece(w, c, err) != 0)
                return -1;
        }
    }
    return 0;
}

/* Starts to read or write what is in files of piece i, where there is one. */
static int move(const struct walk *w, enum op op, int64_t i, struct err *err)
{
    for (int k = 0; i < w->n_pieces && k < OP_MAX_OUT; k++) {
        const struct piece *c = &w->pieces[i];

        if (c->staged[k] >= 0 &&
            offload_move(w->p, w->program, op, c->whole->out[k], c->staged[k], begin_of(c, k), err) != 0)
            return -1;
    }
    return 0;
}

static int wait(const struct walk *w, int64_t i, struct err *err)
{
    struct op_step s = plan_step(OP_FILE_WAIT, "offload");

    if (i < 0 || i >= w->n_pieces)
        return 0;
    memcpy(s.out, w->pieces[i].staged, sizeof s.out);
    return offload_add(w->p, w->program, &s, err);
}

/* The gradients of a piece, as a tensor of their own. */
static int gradients_of(struct plan *p, const struct piece *c, struct err *err)
{
    struct buffer view = p->buffers[c->whole->in[0]];

    view.name = plan_name(p, err, "piece/%s.%" PRId64, view.name, c->begin);
    view.parent = c->whole->in[0];
    view.parent_begin = begin_of(c, 0);
    view.shape = shape_of(1, c->count);
    return view.name ? plan_add_buffer(p, &view, err) : -1;
}

static int step_of(const struct walk *w, const struct piece *c, struct op_step *out, struct err *err)
{
    struct op_step s = *c->whole;

    for (int k = 1; k < OP_MAX_OUT; k++)
        s.out[k] = c->staged[k];
    s.attrs.begin = begin_of(c, 0);
    s.attrs.count = c->count;
    s.by = "offload";
    if (c->staged[0] >= 0) { /* weights that are staged begin at 0, and so must their gradients */
        s.attrs.begin = 0;
        s.out[0] = c->staged[0];
        s.in[0] = gradients_of(w->p, c, err);
    }
    *out = s;
    return s.in[0] < 0 ? -1 : 0;
}

/* One piece; before it begins, another is read into what an earlier one has left. */
static int work_on(const struct walk *w, int64_t i, struct err *err)
{
    struct op_step s;

    if (step_of(w, &w->pieces[i], &s, err) != 0 || wait(w, i, err) != 0 || wait(w, i - AHEAD, err) != 0 ||
        move(w, OP_FILE_READ, i + AHEAD, err) != 0 || offload_add(w->p, w->program, &s, err) != 0)
        return -1;
    return move(w, OP_FILE_WRITE, i, err);
}

/* The program anew: each AdamW step is the pieces that it was cut into, and what stands between them stays there. */
static int rebuild(const struct walk *w, struct err *err)
{
    int result = 0;
    int64_t next = 0;

    for (int64_t i = 0; i < AHEAD && result == 0; i++)
        result = move(w, OP_FILE_READ, i, err);
    for (int i = 0; i < w->n_steps && result == 0; i++) {
        if (!is_adamw(&w->steps[i]))
            result = offload_add(w->p, w->program, &w->steps[i], err);
        for (; next < w->n_pieces && w->pieces[next].whole == &w->steps[i] && result == 0; next++)
            result = work_on(w, next, err);
    }
    for (int64_t i = w->n_pieces - AHEAD; i < w->n_pieces && result == 0; i++)
        result = wait(w, i, err);
    return result;
}

static int offload_state(const struct offload_options *o, struct plan *p, int program, struct err *err)
{
    struct walk w = { .p = p, .program = program };

    w.steps = offload_take_steps(p, program, &w.n_steps, err);
    const int result = !w.steps || cut(&w, o, err) != 0 || rebuild(&w, err) != 0 ? -1 : 0;
    mem_free(w.steps);
    mem_free(w.pieces);
    return result;
}

static int choose_folder(const struct offload_options *o, struct plan *p, struct err *err)
{
    if (!o->folder)
        return 0;
    if (p->file_folder && strcmp(p->file_folder, o->folder) != 0) {
        err_set(err, ERR_USAGE, "--offload_dir is \"%s\" for one model and \"%s\" for another", p->file_folder,
                o->folder);
        return err_hint(err, "Name one folder: a rank has one file for all models.");
    }
    p->file_folder = o->folder;
    return 0;
}

static int on_plan(const void *options_given, struct plan *p, const char *model, struct err *err)
{
    const struct offload_options *o = options_given;
    const int update = plan_find_program(p, model, "update");

    if (o->params && offload_params(p, model, err) != 0)
        return -1;
    if (update >= 0 && o->state && offload_state(o, p, update, err) != 0)
        return -1;
    return choose_folder(o, p, err);
}

const struct technique technique_offload = {
    .name = "offload",
    .summary = "Offload",
    .paper = "Rajbhandari et al. 2021, arXiv:2104.07857",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct offload_options),
    .is_on = is_on,
    .check = check,
    .on_plan = on_plan,
};
