/* A child runs in a process group of its own, so that a Ctrl-C reaches it once, through here. mpirun would answer it by
 * killing its ranks, which would cost the work since the last checkpoint: for it the user's signal becomes SIGUSR2, which it
 * forwards, and every rank finishes the step. */
#include "run/launch.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

static volatile sig_atomic_t asked, asked_again;
static volatile pid_t child;
static bool is_mpirun;

static void pass_on(int number)
{
    if (number == SIGUSR1) {
        if (child > 0)
            kill(child, SIGUSR1);
        return;
    }
    /* the second time mpirun ends the ranks itself */
    if (child > 0)
        kill(child, !is_mpirun ? number : asked ? SIGTERM : SIGUSR2);
    asked_again = asked != 0;
    asked = number;
}

static void watch(void)
{
    struct sigaction a = { .sa_handler = pass_on, .sa_flags = SA_RESTART };

    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
}

static int wait_for(pid_t pid, struct err *err)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return err_errno(err, "could not wait for the process that was started");
    child = 0;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (asked && (code == 0 || code > 128 || asked_again)) /* saved, or ended before there was anything to save */
        return asked == SIGINT ? 130 : 143;
    return code;
}

static int find_program(const char *name, char *out, struct err *err)
{
    const char *path = getenv("PATH");
    char dirs[8192];

    snprintf(dirs, sizeof dirs, "%s", path ? path : "");
    for (char *save = NULL, *d = strtok_r(dirs, ":", &save); d; d = strtok_r(NULL, ":", &save))
        if (file_join(out, d, name, err) == 0 && access(out, X_OK) == 0)
            return 0;
    err_set(err, ERR_UNAVAILABLE, "cannot start ranks: there is no %s in PATH", name);
    return err_hint(err, "Install an MPI, on Debian: apt install openmpi-bin.");
}

static int find_self(char out[FILE_PATH_MAX], struct err *err)
{
    const ssize_t length = readlink("/proc/self/exe", out, FILE_PATH_MAX - 1);

    if (length < 0)
        return err_errno(err, "could not find this program's own file");
    out[length] = '\0';
    return 0;
}

/* words ends with NULL. */
static int run_child(char **words, struct err *err)
{
    fflush(NULL);
    watch();
    const pid_t pid = fork();
    if (pid < 0)
        return err_errno(err, "could not start %s", words[0]);
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* ranks do not outlive the command that was started */
        if (!freopen("/dev/null", "r", stdin)) /* a group in the background would be stopped by the terminal */
            _exit(127);
        if (is_mpirun)
            setenv("TUNEUP_LAUNCHED", "1", 1);
        execv(words[0], words);
        _exit(127);
    }
    child = pid;
    return wait_for(pid, err);
}

int launch_self(int argc, const char *const *argv, struct err *err)
{
    char self[FILE_PATH_MAX];
    char **words = mem_array(argc + 1, 1, sizeof *words, MEM_OTHER, err);
    int result = -1;

    is_mpirun = false;
    if (asked)
        result = asked == SIGINT ? 130 : 143;
    else if (words && find_self(self, err) == 0) {
        words[0] = self;
        for (int i = 1; i < argc; i++)
            words[i] = (char *)argv[i];
        result = run_child(words, err);
    }
    mem_free(words);
    return result;
}

int launch_ranks(int ranks, int argc, char **argv, struct err *err)
{
    char mpirun[FILE_PATH_MAX], self[FILE_PATH_MAX], count[16];
    char **words = mem_array(argc + 10, 1, sizeof *words, MEM_OTHER, err);
    int n = 0, result = -1;

    if (!words || find_program("mpirun", mpirun, err) != 0 || find_self(self, err) != 0)
        goto done;
    is_mpirun = true;
    snprintf(count, sizeof count, "%d", ranks);
    words[n++] = mpirun;
    words[n++] = (char *)"-q";
    words[n++] = (char *)"-n";
    words[n++] = count;
    words[n++] = (char *)"--bind-to"; /* a rank's threads share the machine's cores among themselves */
    words[n++] = (char *)"none";
    words[n++] = self;
    for (int i = 1; i < argc; i++)
        words[n++] = argv[i];
    result = run_child(words, err);
done:
    mem_free(words);
    return result;
}
