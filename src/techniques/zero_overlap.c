/* Communication beside work. Gradients of a part are sent while the next part's are made: their reduce-scatter only begins, and is
 * waited for where the next one begins. A part's weights are gathered while the part before is used: the gather begins when that
 * one's weights are there. It costs the memory of a second part; what it gains hangs on whether messages move while nobody
 * calls MPI. */
#include <string.h>

#include "techniques/zero.h"

static struct op_step wait_for(const struct op_step *begun)
{
    struct op_step wait = plan_step(OP_WAIT, "zero");

    wait.in[0] = begun->out[0];
    wait.layer = begun->layer;
    wait.pass = begun->pass;
    return wait;
}

/* Waits for what has been sent, and adds this rank's share to what it keeps; returns how many steps these are. */
static int finish(struct plan *p, int program, int at, const struct op_step *scatter, const struct op_step *add,
                  struct err *err)
{
    const struct op_step wait = wait_for(scatter);

    if (plan_insert(p, program, at, &wait, err) != 0 || plan_insert(p, program, at + 1, add, err) != 0)
        return -1;
    return 2;
}

/* Each reduce-scatter is followed by the step that adds its share. */
static int overlap_sends(struct plan *p, int program, struct err *err)
{
    struct op_step scatter, add;
    bool under_way = false;

    for (int i = 0; i < p->programs[program].n_steps; i++) {
        if (p->programs[program].steps[i].op != OP_REDUCE_SCATTER)
            continue;
        p->programs[program].steps[i].attrs.begins = true;
        const struct op_step next = p->programs[program].steps[i], next_add = p->programs[program].steps[i + 1];
        plan_remove(p, program, i + 1);
        const int more = under_way ? finish(p, program, i, &scatter, &add, err) : 0;
        if (more < 0)
            return -1;
        i += more;
        scatter = next;
        add = next_add;
        under_way = true;
    }
    return under_way && finish(p, program, p->programs[program].n_steps, &scatter, &add, err) < 0 ? -1 : 0;
}

/* Each all-gather follows the step that copies this rank's share; both move to where the one before has been waited for. */
static int overlap_gathers(struct plan *p, int program, struct err *err)
{
    int before = -1; /* behind the gather before, or the wait for it */

    for (int i = 1; i < p->programs[program].n_steps; i++) {
        struct op_step gather = p->programs[program].steps[i], copy = p->programs[program].steps[i - 1];
        const struct op_step wait = wait_for(&gather);
        if (gather.op != OP_ALL_GATHER || gather.attrs.begins)
            continue;
        if (before >= 0 && before < i - 1) {
            gather.attrs.begins = true;
            p->programs[program].steps[i] = wait;
            plan_remove(p, program, i - 1);
            if (plan_insert(p, program, before, &copy, err) != 0 ||
                plan_insert(p, program, before + 1, &gather, err) != 0)
                return -1;
            i++;
        }
        before = i + 1;
    }
    return 0;
}

int zero_overlap(struct plan *p, const char *model, struct err *err)
{
    for (int program = 0; program < p->n_programs; program++)
        if (strcmp(p->programs[program].model, model) == 0 && p->programs[program].B > 0 &&
            (overlap_sends(p, program, err) != 0 || overlap_gathers(p, program, err) != 0))
            return -1;
    return 0;
}
