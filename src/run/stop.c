/* Handlers only set flags; the loop looks at them between steps. */
#include "run/stop.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t wanted, status;

static void on_stop(int number)
{
    if (wanted) {
        signal(number, SIG_DFL); /* the second time: at once; files appear by rename, so none is half-written */
        raise(number);
        return;
    }
    wanted = number;
}

static void on_status(int number)
{
    (void)number;
    status = 1;
}

void stop_prepare(void)
{
    struct sigaction tell = { .sa_handler = on_status, .sa_flags = SA_RESTART };

    sigaction(SIGUSR1, &tell, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

void stop_watch(void)
{
    struct sigaction stop = { .sa_handler = on_stop, .sa_flags = SA_RESTART | SA_NODEFER };

    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGUSR2, &stop, NULL);
}

int stop_wanted(void)
{
    return wanted;
}

bool stop_status_wanted(void)
{
    const bool was = status;

    status = 0;
    return was;
}
