/* A run that a signal stopped has saved everything: its exit status says which signal it was. */
#include "cli/training.h"

#include <stdlib.h>

#include "run/launch.h"
#include "run/stop.h"

static int exit_of_stop(void)
{
    if (getenv("TUNEUP_LAUNCHED")) /* the launcher knows which signal it was, and mpirun stays quiet about 0 */
        return 0;
    return stop_wanted() == 2 ? 130 : 143;
}

int training_no_words(const struct command_line *line, struct err *err)
{
    return line->n_words == 0 ? 0 : err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", line->words[0]);
}

int training_run(const struct run_form *form, struct spec *s, struct command_line *line, struct err *err)
{
    const struct run_request request = { form, s, line->sets, line->n_sets, line->given, line->n_given };

    if (s->ranks > 1 && !comm_launched())
        return launch_ranks((int)s->ranks, line->argc, line->argv, err);
    const int result = run_train(&request, err);
    if (result != 0 && err->code == ERR_STOPPED) {
        if (err->what[0])
            fprintf(stderr, "tuneup: %s\n  hint: %s\n", err->what, err->hint);
        return exit_of_stop();
    }
    return result;
}
