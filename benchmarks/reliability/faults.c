/* Faults of file systems, preloaded into a program: LD_PRELOAD=faults.so

   FAULTS_UNDER    the folder whose files are meant, with a trailing slash
   FAULTS_COUNTER  a file of eight bytes that counts the operations of all processes together
   FAULTS_AT       number of the operation, from 1, at which the fault happens; 0: never
   FAULTS_KIND     kill: SIGKILL to the process group; otherwise the number of an error
   FAULTS_FOR      for how many operations the error lasts
   FAULTS_LOCKS    number of the error of flock and of fcntl's locks; 0: none
   FAULTS_SYNC     number of the error of fsync of a folder; 0: none
   FAULTS_ROOM     1: statvfs tells of no blocks, as file systems in user space that do not know

   An operation is whatever creates, writes, cuts, syncs, closes after writing, renames, links or removes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *under;
static long at, lasting = 1, kind;
static int locks, sync_error, no_room, kills;
static long *counter;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* Read the settings, which a fork may have changed. */
__attribute__((constructor)) void faults_begin(void) {
    const char *file = getenv("FAULTS_COUNTER"), *what = getenv("FAULTS_KIND");
    under = getenv("FAULTS_UNDER");
    kills = what && !strcmp(what, "kill");
    kind = what && !kills ? atol(what) : 0;
    at = number("FAULTS_AT", 0), lasting = number("FAULTS_FOR", 1);
    locks = number("FAULTS_LOCKS", 0), sync_error = number("FAULTS_SYNC", 0), no_room = number("FAULTS_ROOM", 0);
    counter = NULL;
    int fd = file ? open(file, O_RDWR) : -1;
    void *shared = fd >= 0 ? mmap(NULL, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    counter = shared == MAP_FAILED ? NULL : shared;
}

static int meant(const char *path) { return under && path && !strncmp(path, under, strlen(under)); }

static int meant_at(int folder, const char *path) {
    char link[64], place[PATH_MAX * 2];
    if (path && path[0] == '/') return meant(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(place, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, place, PATH_MAX);
        if (length < 0) return 0;
        place[length] = 0;
    }
    strcat(place, "/");
    if (path) strncat(place, path, PATH_MAX - 2);
    return meant(place);
}

static int meant_fd(int fd) { return fd > 2 && meant_at(fd, NULL); }

/* Count an operation; 1 with errno where it fails. */
static int fails(void) {
    if (!counter) return 0;
    long now = __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
    if (!at || now < at || now >= at + lasting) return 0;
    if (kills) {
        kill(0, SIGKILL);
        for (;;) pause();
    }
    errno = kind;
    return 1;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define WRITES(flags) ((flags) & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC))
#define OPEN(name)                                                                                  \
    int name(const char *path, int flags, ...) {                                                    \
        va_list rest;                                                                               \
        va_start(rest, flags);                                                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                     \
        va_end(rest);                                                                               \
        if (WRITES(flags) && meant_at(AT_FDCWD, path) && fails()) return -1;                        \
        return REAL(name)(path, flags, mode);                                                       \
    }
#define OPENAT(name)                                                                                \
    int name(int folder, const char *path, int flags, ...) {                                        \
        va_list rest;                                                                               \
        va_start(rest, flags);                                                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                     \
        va_end(rest);                                                                               \
        if (WRITES(flags) && meant_at(folder, path) && fails()) return -1;                          \
        return REAL(name)(folder, path, flags, mode);                                               \
    }
#define FOPEN(name)                                                                                 \
    FILE *name(const char *path, const char *mode) {                                                \
        if (strpbrk(mode, "wa+") && meant_at(AT_FDCWD, path) && fails()) return NULL;               \
        return REAL(name)(path, mode);                                                              \
    }
#define WRAP(type, name, parameters, arguments, where)                                              \
    type name parameters {                                                                          \
        if (where && fails()) return -1;                                                            \
        return REAL(name) arguments;                                                                \
    }
#define HERE(path) meant_at(AT_FDCWD, path)

OPEN(open) OPEN(open64)
OPENAT(openat) OPENAT(openat64)
FOPEN(fopen) FOPEN(fopen64)
WRAP(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), meant_fd(fd))
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t start), (fd, data, size, start), meant_fd(fd))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t start), (fd, data, size, start), meant_fd(fd))
WRAP(ssize_t, writev, (int fd, const struct iovec *data, int count), (fd, data, count), meant_fd(fd))
ssize_t sendfile(int, int, off_t *, size_t);
ssize_t sendfile64(int, int, off64_t *, size_t);
WRAP(ssize_t, sendfile, (int to, int from, off_t *start, size_t size), (to, from, start, size), meant_fd(to))
WRAP(ssize_t, sendfile64, (int to, int from, off64_t *start, size_t size), (to, from, start, size), meant_fd(to))
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), meant_fd(fd))
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size), meant_fd(fd))
WRAP(int, fdatasync, (int fd), (fd), meant_fd(fd))
WRAP(int, rename, (const char *from, const char *to), (from, to), HERE(to))
WRAP(int, renameat, (int from, const char *a, int to, const char *b), (from, a, to, b), meant_at(to, b))
WRAP(int, link, (const char *from, const char *to), (from, to), HERE(to))
WRAP(int, unlink, (const char *path), (path), HERE(path))
WRAP(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), meant_at(folder, path))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), HERE(path))
WRAP(int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), meant_at(folder, path))
WRAP(int, rmdir, (const char *path), (path), HERE(path))

int fsync(int fd) {
    struct stat what;
    int ours = meant_fd(fd);
    if (ours && sync_error && !fstat(fd, &what) && S_ISDIR(what.st_mode)) {
        errno = sync_error;
        return -1;
    }
    if (ours && fails()) return -1;
    return REAL(fsync)(fd);
}

int close(int fd) {
    int flags = fd > 2 ? REAL(fcntl)(fd, F_GETFL) : -1;
    int error = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && meant_fd(fd) && fails() ? errno : 0;
    int result = REAL(close)(fd);
    if (!error) return result;
    errno = error; /* as where writing was put off: the file is closed, and its end is lost */
    return -1;
}

int flock(int fd, int operation) {
    if (locks && meant_fd(fd)) {
        errno = locks;
        return -1;
    }
    return REAL(flock)(fd, operation);
}

#define FCNTL(name)                                                                                 \
    int name(int fd, int command, ...) {                                                            \
        va_list rest;                                                                               \
        va_start(rest, command);                                                                    \
        void *argument = va_arg(rest, void *);                                                      \
        va_end(rest);                                                                               \
        if (locks && (command == F_SETLK || command == F_SETLKW || command == F_GETLK) && meant_fd(fd)) { \
            errno = locks;                                                                          \
            return -1;                                                                              \
        }                                                                                           \
        return REAL(name)(fd, command, argument);                                                   \
    }
FCNTL(fcntl) FCNTL(fcntl64)

/* Whether a path is the folder that is meant, or below it. */
static int meant_folder(const char *path) {
    char place[PATH_MAX + 2];
    snprintf(place, sizeof place, "%s/", path);
    return meant_at(AT_FDCWD, place);
}

#define STATVFS(name, type)                                                                         \
    int name(const char *path, struct type *found) {                                                \
        int result = REAL(name)(path, found);                                                       \
        if (!result && no_room && meant_folder(path)) found->f_blocks = found->f_bfree = found->f_bavail = 0; \
        return result;                                                                              \
    }
STATVFS(statvfs, statvfs) STATVFS(statvfs64, statvfs64)
