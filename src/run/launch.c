/* mpirun answers a Ctrl-C by killing its ranks, which would cost the work since the last checkpoint. So it runs in a process
 * group of its own, and what the user's signal becomes is SIGUSR2, which mpirun forwards: every rank finishes the step. */
#include "run/launch.h"

#include <errno.h>
#include <signal.h>
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

static void pass_on(int number)
{
    if (number == SIGUSR1) {
        kill(child, SIGUSR1);
        return;
    }
    kill(child, asked ? SIGTERM : SIGUSR2); /* the second time mpirun ends the ranks itself */
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
            return err_errno(err, "could not wait for mpirun");
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

int launch_ranks(int ranks, int argc, char **argv, struct err *err)
{
    char mpirun[FILE_PATH_MAX], self[FILE_PATH_MAX], count[16];
    char **words = mem_array(argc + 10, 1, sizeof *words, MEM_OTHER, err);
    int n = 0, result = -1;

    if (!words || find_program("mpirun", mpirun, err) != 0)
        goto done;
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) {
        err_errno(err, "could not find this program's own file");
        goto done;
    }
    self[length] = '\0';
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
    fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0) {
        err_errno(err, "could not start mpirun");
        goto done;
    }
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* ranks do not outlive the command that was started */
        if (!freopen("/dev/null", "r", stdin)) /* a group in the background would be stopped by the terminal */
            _exit(127);
        setenv("TUNEUP_LAUNCHED", "1", 1);
        execv(mpirun, words);
        _exit(127);
    }
    child = pid;
    watch();
    result = wait_for(pid, err);
done:
    mem_free(words);
    return result;
}
