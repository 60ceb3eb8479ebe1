/* plan/plan.h - a run as data: buffers with kind, tier, shards and lifetime, and programs of steps over them.
 *
 * `tuneup plan` prints it, exec runs it, the report compares it with what was measured: one object. Made by lower.c and
 * update.c, rewritten by techniques/, given offsets by layout.c. */
#ifndef TUNEUP_PLAN_PLAN_H
#define TUNEUP_PLAN_PLAN_H

#include "graph/graph.h"

enum tier {
    TIER_DEVICE,
    TIER_HOST,
    TIER_FILE, /* the run's own file, moved in pieces */
    TIER_MAPPED, /* the model's files, used where it lies in them, and never written */
    TIER_N
};

#define PLAN_FILE_BLOCK                                                                                                \
    4096 /* bytes: buffers in files, and those that stage them, begin and end on it, for direct IO */

struct buffer {
    const char *name;
    enum buffer_kind kind;
    enum dtype dtype;
    struct shape shape; /* the whole tensor, at the planned extents */
    int shards; /* this rank holds 1/shards of it */
    enum tier tier;
    int parent; /* a view: elements from parent_begin on of that flat buffer; -1 = has its own memory */
    int64_t parent_begin;
    int group; /* enum optimizer_group of parameters and gradients; -1 for others */
    bool persistent; /* lives between programs: parameters, gradients, optimizer state, inputs */
    bool cache; /* persistent, but between those programs alone that name a cache: any other one writes over it */
    bool derived; /* made of other state by a program of the plan: neither loaded nor saved */
    bool packed, working; /* as the value's */
    bool input; /* exec gives its address out */
    bool mappable; /* the model's files have it in this type, where its numbers may begin; or are assumed to */
    bool unmapped; /* was to be of TIER_MAPPED, and is not mappable */
    bool staging; /* filled from a buffer of TIER_FILE, or written to it: */
    int stages; /* that one */
    int program; /* the one program a transient buffer belongs to */
    int first_step, last_step; /* its lifetime there: layout.c derives it after the last rewrite */
    int64_t count; /* elements this rank holds */
    size_t bytes, offset; /* this rank's share, and its place in the tier's block */
    double scale; /* of an adapter's weights: by how much its product counts */
    const char *by; /* who added it, or changed it last */
    const char *model; /* prefix of the model whose state or activation it is: "actor/", or "" */
};

struct op_step {
    enum op op;
    int in[OP_MAX_IN], out[OP_MAX_OUT]; /* buffers, -1 = none */
    struct op_attrs attrs;
    enum pass pass;
    int layer;
    const char *by;
    struct op_cost cost; /* cost.c */
    size_t scratch_bytes; /* the backend's prepare */
};

/* At what extents a program runs: at most the planned ones. */
struct plan_extents {
    int64_t B, T; /* 0: as planned */
    int64_t live; /* rows of packed tensors; 0: all of B and T, of which there may be room for fewer */
};

/* How the scale of a loss follows its gradients: phases/loss_scale.h. */
struct loss_scaling {
    double initial, min; /* initial 0: no scaling */
    int64_t window, hysteresis; /* updates without an overflow until it doubles; overflows until it halves */
};

struct program {
    const char *name; /* "train", "eval", "reduce", "update", after the model's prefix: "actor/train" */
    const char *model; /* that prefix, or "" */
    struct op_step *steps;
    int n_steps, room;
    int64_t B, T; /* planned extents; 0: it has no tokens */
    int live, places; /* buffers of live_rows; -1: no tensor is packed */
    double times; /* how often it runs for one optimizer step */
    struct plan_extents usual; /* of its runs, on the average, as far as the data are known */
    struct loss_scaling loss_scaling; /* of the gradients that it applies: of "update" alone */
};

#define PLAN_MAX_PROGRAMS 20

struct plan {
    struct buffer *buffers;
    int n_buffers, buffers_room;
    struct program programs[PLAN_MAX_PROGRAMS];
    int n_programs;
    char **names;
    int n_names, names_room;
    int rank, ranks;
    int micro_steps; /* how often train runs for one update */
    const char *file_folder; /* where TIER_FILE is; NULL: wherever the run puts it. Outlives the plan */
    bool assumes_files; /* some were not looked at: their tensors are taken to be mappable */
    size_t kind_bytes[KIND_N]; /* of this rank; they add up to tier_bytes[TIER_DEVICE]: layout.c */
    size_t tier_bytes[TIER_N], unmapped_bytes;
    size_t scratch_bytes, scratch_offset;
};

void plan_init(struct plan *p, int rank, int ranks);
void plan_free(struct plan *p);
int plan_add_buffer(struct plan *p, const struct buffer *b, struct err *err); /* index, or -1 */
/* name without the model's prefix; model outlives the plan */
int plan_add_program(struct plan *p, const char *model, const char *name, int64_t B, int64_t T, struct err *err);
/* One like that buffer, of the same program, named "PREFIX/..." after it. */
int plan_add_like(struct plan *p, int buffer, const char *prefix, const char *by, struct err *err);
/* Inserts a copy of *s before position `at` of a program (n_steps: at the end). */
int plan_insert(struct plan *p, int program, int at, const struct op_step *s, struct err *err);
void plan_remove(struct plan *p, int program, int at);
int plan_find(const struct plan *p, const char *name); /* buffer, -1 = none */
int plan_find_program(const struct plan *p, const char *model, const char *name); /* -1 = none */
bool plan_trains(const struct plan *p, int program, const char *model); /* is of the model, and has a backward pass */
const char *plan_name(struct plan *p, struct err *err, const char *format, ...)
    ERR_PRINTF(3, 4); /* owned by the plan */
/* What a rank holds of a tensor: elements *first .. *first + *count - 1, all of it but for one in a flat buffer that is in
 * shards: then also where in the share they begin, else 0. After layout_assign, or before. */
int64_t plan_held(const struct plan *p, int buffer, int rank, int64_t *first, int64_t *count);
bool plan_sends(const struct plan *p, int program); /* has a collective: all ranks run it together */
bool plan_is_sharded(const struct plan *p, int buffer); /* such a tensor */
/* A parameter of the model as its graph names it: no flat buffer of such, none that is made. */
bool plan_is_tensor(const struct buffer *b, const char *model);
/* A weight as the model's files have it, in memory or in those files: none of an adapter, none that is made. What learns lies in
 * flat buffers of an optimizer's group (update.c): one that lies alone does not learn. */
bool plan_is_weight(const struct buffer *b, const char *model);
bool plan_maps(const struct plan *p, const char *model); /* something of the model is TIER_MAPPED */
/* The buffer that lasts: what a staging one is filled from, else itself. */
static inline int plan_stored(const struct plan *p, int buffer)
{
    return buffer >= 0 && p->buffers[buffer].staging ? p->buffers[buffer].stages : buffer;
}
bool plan_step_reads(const struct op_step *s, int buffer);
/* A step with no operands, no attributes: a start for filling in. */
struct op_step plan_step(enum op op, const char *by);

/* lower.c: adds a graph as a program of the graph's model. Parameters, their gradients and inputs are shared by name with earlier programs. */
int plan_lower(struct plan *p, const struct graph *g, const char *name, int64_t B, int64_t T, struct err *err);

/* update.c: gathers a model's parameters and gradients into one flat buffer a group, adds the optimizer's state and the
 * programs "reduce" (gradients over ranks, their norm) and "update" (clipping, AdamW). Models of one plan have their gradients
 * in the same memory: from a model's first micro-batch to its update no other model trains. */
int plan_update(struct plan *p, const char *model, struct err *err);
/* The passes that scale gradients before AdamW go away: it does so as it goes. by: who asks; nothing to do is fine. */
void plan_clip_in_adamw(struct plan *p, const char *model, const char *by);

/* share.c: after all rewrites of both: weights of the model `with` that do not learn take the place of the same ones of `model`,
 * where these do not learn either. For two models of the very same files. */
void plan_share(struct plan *p, const char *model, const char *with);

/* average.c: after plan_update of a model, a moving average of its weights as the model `into`, of the same tensors in fp32,
 * and the program "update" of that model: average = decay * average + (1 - decay) * weight. Weights that do not learn are
 * the model's own. */
int plan_average(struct plan *p, const char *model, const char *into, double decay, struct err *err);

/* layout.c: sizes, lifetimes, offsets. Every buffer and the scratch are aligned to 64 bytes, those of files to their blocks. */
int layout_assign(struct plan *p, struct err *err);

/* cost.c: flops, bytes and communication of each step at the planned extents; their sum over one optimizer step. */
void cost_fill(struct plan *p);
/* Of one step of program g. Attention of packed rows is counted as if they were alike. */
struct op_cost cost_step(const struct plan *p, const struct program *g, const struct op_step *s,
                         const struct plan_extents *x);
struct op_cost cost_update(const struct plan *p);

#endif
