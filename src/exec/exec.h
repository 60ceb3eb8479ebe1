/* exec/exec.h - runs a plan: allocates one block a tier once, binds every buffer to its offset, and loops over steps. Nothing is
 * allocated after exec_allocate. Memory: exactly plan->tier_bytes, touched, on huge pages where the system has them; and in
 * files as many bytes as the plan has there (disk.h). What is in the model's files is bound by whoever opened them. */
#ifndef TUNEUP_EXEC_EXEC_H
#define TUNEUP_EXEC_EXEC_H

#include "backend/backend.h"
#include "comm/comm.h"
#include "exec/disk.h"

/* Called after each step when set: for benches and `--profile`; costs two clock readings a step. */
typedef void exec_hook(void *context, const struct program *program, const struct op_step *step, double seconds);

/* Called after each run of a program when set, with what it worked on: for predictions of what that takes. */
typedef void exec_run_hook(void *context, int program, const struct run_context *c);

struct exec {
    struct plan *plan; /* borrowed, as are: */
    struct backend *backend;
    struct comm *comm;
    struct kernel *kernels[PLAN_MAX_PROGRAMS]; /* one a step; unused for collectives */
    char *block;
    size_t block_bytes;
    void **addresses; /* of each buffer; NULL: it is in a file, or not bound yet */
    size_t mapped_bytes; /* bound so far */
    struct disk *disk; /* NULL: the plan has nothing in files */
    int n_pending; /* collectives that have begun and not been waited for */
    exec_hook *hook;
    void *hook_context;
    exec_run_hook *run_hook;
    void *run_hook_context;
};

/* Makes every kernel, which tells the plan its scratch, and lays the plan out. Allocates no tensor: `tuneup plan` stops
 * here. The plan must not be rewritten after. */
int exec_prepare(struct exec *e, struct plan *p, struct backend *b, struct comm *c, struct err *err);
/* The blocks themselves, zeroed: memory, then the file in plan->file_folder. ERR_MEMORY, ERR_SYSTEM when there is not enough. */
int exec_allocate(struct exec *e, struct err *err);
/* Lets a buffer of TIER_MAPPED, and all views of it, be what lies at `data` until exec_free: at an address that its type allows,
 * never written. */
void exec_bind(struct exec *e, int buffer, const void *data);
void exec_free(struct exec *e);

/* Runs one program. err names the step and op that failed. */
int exec_run(struct exec *e, int program, const struct run_context *c, struct err *err);
/* The address of a buffer's own share, which is in memory or bound; NULL for -1. */
void *exec_address(const struct exec *e, int buffer);
/* What this rank holds of a tensor (plan_held), and where. */
void *exec_held(const struct exec *e, int buffer, int64_t *first, int64_t *count);
/* By name; the buffer must exist. */
void *exec_buffer(const struct exec *e, const char *name);
/* Bytes of a buffer's own share from `at` on, wherever it lies, between programs: for what is loaded and saved. */
int exec_get(const struct exec *e, int buffer, size_t at, void *out, size_t bytes, struct err *err);
int exec_put(struct exec *e, int buffer, size_t at, const void *from, size_t bytes, struct err *err);

#endif
