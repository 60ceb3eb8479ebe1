/* Signals are taken by one thread that does nothing else; the loop looks between steps at what it has noted. Every other thread
 * blocks them, as none that computes may run a handler: inside oneDNN's fp32 products for AVX2 and AVX-512 the stack pointer
 * points into memory from malloc, and a handler's frame would overwrite what lies below it (uxlfoundation/oneDNN issue 4845,
 * mended in 3.11.2). Default actions are harmless: they need no frame. */
#include "run/stop.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "base/log.h"

static atomic_int wanted;
static atomic_bool status, watching;
static sigset_t taken; /* the signals that are wishes */

/* The signal's default action, or nothing where it is ignored. */
static void act(int number)
{
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, number);
    raise(number);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
}

static void *taker_main(void *old_mask)
{
    sigset_t mask = *(const sigset_t *)old_mask;
    int number;

    for (int s = 1; s < NSIG; s++)
        if (sigismember(&taken, s) == 1)
            sigaddset(&mask, s);
    pthread_sigmask(SIG_SETMASK, &mask, NULL); /* the others keep their actions, and those of libraries run here */
    while (sigwait(&taken, &number) == 0)
        if (number == SIGUSR1)
            atomic_store(&status, true);
        else if (!atomic_load(&watching) || atomic_load(&wanted) != 0)
            act(number); /* the second time: at once; files appear by rename, so none is half-written */
        else
            atomic_store(&wanted, number);
    return NULL;
}

/* All but those that a thread brings on itself. */
static void fill_asynchronous(sigset_t *set)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPIPE, SIGTTIN, SIGTTOU };

    sigfillset(set);
    for (int i = 0; i < COUNT_OF(own); i++)
        sigdelset(set, own[i]);
}

void stop_prepare(void)
{
    static const int wishes[] = { SIGINT, SIGTERM, SIGUSR1, SIGUSR2 };
    static sigset_t old_mask;
    static bool prepared;
    sigset_t asynchronous;
    pthread_t taker;

    signal(SIGXFSZ, SIG_IGN);
    if (prepared)
        return;
    sigemptyset(&taken);
    for (int i = 0; i < COUNT_OF(wishes); i++)
        sigaddset(&taken, wishes[i]);
    fill_asynchronous(&asynchronous);
    pthread_sigmask(SIG_BLOCK, &asynchronous, &old_mask);
    const int failed = pthread_create(&taker, NULL, taker_main, &old_mask);
    if (failed != 0) {
        pthread_sigmask(SIG_SETMASK, &old_mask, NULL);
        log_warning("a signal ends this run without saving: could not start the thread that takes them: %s",
                    strerror(failed));
        return;
    }
    pthread_detach(taker);
    prepared = true;
}

void stop_watch(void)
{
    static const int stops[] = { SIGINT, SIGTERM, SIGUSR2 };

    for (int i = 0; i < COUNT_OF(stops); i++) /* shells start what is in the background with SIGINT ignored */
        signal(stops[i], SIG_DFL);
    atomic_store(&watching, true);
}

int stop_wanted(void)
{
    return atomic_load(&wanted);
}

bool stop_status_wanted(void)
{
    return atomic_exchange(&status, false);
}
