/* store_folder.c - the data folder: made private, checked before anything is written, locked.
 *
 * The lock is flock on foresay.lock, held as long as the descriptor is open; the kernel lets go of it however the process ends.
 * The file holds the process id, for the sentence that tells who has it. SQLite's own locks are not enough: two servers would
 * each mark the other's running answers interrupted. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/store_sql.h"

enum { LOCK_TRIES = 40, LOCK_PAUSE_MS = 50 }; /* 2 s: a server that is just ending, or `foresay user add`, is done by then */

static int fail(struct store_error *error, const char *dir, const char *sentence, int number) {
    char why[80] = "";
    if (number && strerror_r(number, why, sizeof why) != 0) snprintf(why, sizeof why, "error %d", number);
    snprintf(error->text, sizeof error->text, "The data folder %s %s%s%s%s. Choose another with --data.", dir, sentence,
             number ? " (" : "", why, number ? ")" : "");
    return -1;
}

/* mkdir -p, private. False with errno. */
static bool make_folders(const char *dir) {
    char *path = strdup(dir);
    if (!path) return false;
    bool made = true;
    for (char *p = path + 1; made && *p; p++) {
        if (*p != '/') continue;
        *p = '\0';
        made = mkdir(path, 0700) == 0 || errno == EEXIST;
        *p = '/';
    }
    made = made && (mkdir(path, 0700) == 0 || errno == EEXIST);
    int number = errno;
    free(path);
    errno = number;
    return made;
}

/* SQLite makes its files readable for all within the umask; made here first, they and their companions are private. O_EXCL: a
 * file that is there is not opened, because closing it would drop the locks of another connection in this process. */
static bool make_database_file(int folder) {
    int file = openat(folder, "foresay.db", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return errno == EEXIST;
    close(file);
    return fsync(folder) == 0;
}

static int holder(int lock) {
    char text[20] = "";
    ssize_t n = pread(lock, text, sizeof text - 1, 0);
    return n > 0 ? (int)strtol(text, NULL, 10) : 0;
}

static void sign(int lock) {
    char text[20];
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(lock, 0) != 0 || pwrite(lock, text, (size_t)n, 0) != n) return; /* only the sentence will be poorer */
}

/* 0 when taken, else errno; EWOULDBLOCK after `tries`. */
static int take(int lock, int tries) {
    const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000L * 1000};
    for (;;) {
        if (flock(lock, LOCK_EX | LOCK_NB) == 0) return 0;
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK || --tries <= 0) return errno;
        nanosleep(&pause, NULL);
    }
}

static int lock_folder(int folder, const char *dir, bool guest, struct store_error *error) {
    int lock = openat(folder, "foresay.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0) return fail(error, dir, "cannot be written", errno);
    int number = take(lock, guest ? 1 : LOCK_TRIES);
    if (number == 0) {
        sign(lock);
        return lock;
    }
    int pid = holder(lock);
    close(lock);
    if (number != EWOULDBLOCK) return fail(error, dir, "cannot be locked", number);
    if (guest) return STORE_FOLDER_BUSY;
    snprintf(error->text, sizeof error->text,
             "The data folder %s is in use by another foresay (process %d). Stop that one, or choose another folder with --data.",
             dir, pid);
    return -1;
}

int store_folder_open(const char *dir, bool guest, struct store_error *error) {
    struct stat status;
    if (!dir || !dir[0]) return fail(error, "\"\"", "has no name", 0);
    if (!make_folders(dir)) {
        bool in_the_way = errno == ENOTDIR;
        return fail(error, dir, in_the_way ? "cannot be made: a file is in the way" : "cannot be made", in_the_way ? 0 : errno);
    }
    if (stat(dir, &status) != 0) return fail(error, dir, "cannot be read", errno);
    if (!S_ISDIR(status.st_mode)) return fail(error, dir, "is a file, not a folder", 0);
    if (access(dir, R_OK | W_OK | X_OK) != 0) return fail(error, dir, "cannot be written", errno);
    int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return fail(error, dir, "cannot be read", errno);
    int lock = lock_folder(folder, dir, guest, error);
    if (lock != -1 && !make_database_file(folder)) {
        int number = errno;
        if (lock >= 0) close(lock);
        lock = fail(error, dir, "cannot be written", number);
    }
    close(folder);
    return lock;
}
