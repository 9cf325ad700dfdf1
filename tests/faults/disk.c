/* Preloaded into every process of a run: does one thing at the n-th call that writes below a folder.
 *
 * FAULT_ROOT   the folder
 * FAULT_SHARED a file of zeros that all processes of the run share: how many calls there were, and the driver's id
 * FAULT_DO     "fail ERRNO COUNT": this call and the COUNT - 1 that follow fail so
 *              "signal NUMBER": the driver, which is the first process, gets a signal
 *              "clock SECONDS": from this call on the clock is so much behind
 *              "append": the file FAULT_FILE gets another line, at its n-th opening for reading
 *              "count": nothing
 * FAULT_AT     n, from 1
 */
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
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct shared { long calls, driver; };

static struct shared *shared;
static const char *root, *file;
static char doing[16];
static long at, number, count;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("FAULT_SHARED"), *what = getenv("FAULT_DO");
    root = getenv("FAULT_ROOT");
    file = getenv("FAULT_FILE");
    if (!where || !what || !root) return;
    int fd = syscall(SYS_openat, AT_FDCWD, where, O_RDWR);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return;
    sscanf(what, "%15s %ld %ld", doing, &number, &count);
    at = atol(getenv("FAULT_AT"));
    shared = map;
    long nobody = 0;
    __atomic_compare_exchange_n(&shared->driver, &nobody, (long)getpid(), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static int below(const char *path) { return strncmp(path, root, strlen(root)) == 0; }

static int at_path(int folder, const char *path) {
    char link[64], whole[PATH_MAX];
    if (!shared || !path) return 0;
    if (path[0] == '/') return below(path);
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    ssize_t size = readlink(link, whole, sizeof whole - 1);
    if (size < 0) return 0;
    whole[size] = 0;
    return below(whole);
}

static int at_file(int fd) {
    char link[64], whole[PATH_MAX];
    if (!shared) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, whole, sizeof whole - 1);
    if (size < 0) return 0;
    whole[size] = 0;
    return below(whole);
}

/* Count a call that writes; say whether it fails, with errno set. */
static int fails(int by_name) {
    if (strcmp(doing, "append") == 0) return 0;
    if (strcmp(doing, "fail") == 0 && number == EACCES && !by_name) return 0;
    long now = __atomic_add_fetch(&shared->calls, 1, __ATOMIC_SEQ_CST);
    if (strcmp(doing, "signal") == 0 && now == at) kill(shared->driver, number);
    if (strcmp(doing, "fail") == 0 && now >= at && now - at < count) {
        errno = number;
        return 1;
    }
    return 0;
}

static void opened(const char *path) {
    if (!shared || !file || strcmp(doing, "append") || strcmp(path, file)) return;
    if (__atomic_add_fetch(&shared->calls, 1, __ATOMIC_SEQ_CST) != at) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_APPEND);
    char all[1 << 16];
    ssize_t size = read(fd, all, sizeof all);
    char *line = memrchr(all, '\n', size - 1);
    if (line) syscall(SYS_write, fd, line + 1, all + size - line - 1);
    close(fd);
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) {
    MODE(flags)
    if (writes(flags) && at_path(AT_FDCWD, path) && fails(1)) return -1;
    if (!writes(flags)) opened(path);
    return REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    if (writes(flags) && at_path(AT_FDCWD, path) && fails(1)) return -1;
    if (!writes(flags)) opened(path);
    return REAL(open64)(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    if (writes(flags) && at_path(folder, path) && fails(1)) return -1;
    return REAL(openat)(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags)
    if (writes(flags) && at_path(folder, path) && fails(1)) return -1;
    return REAL(openat64)(folder, path, flags, mode);
}

FILE *fopen(const char *path, const char *how) {
    if (strpbrk(how, "wa+") && at_path(AT_FDCWD, path) && fails(1)) return NULL;
    return REAL(fopen)(path, how);
}

FILE *fopen64(const char *path, const char *how) {
    if (strpbrk(how, "wa+") && at_path(AT_FDCWD, path) && fails(1)) return NULL;
    return REAL(fopen64)(path, how);
}

ssize_t write(int fd, const void *bytes, size_t size) {
    return at_file(fd) && fails(0) ? -1 : REAL(write)(fd, bytes, size);
}

ssize_t writev(int fd, const struct iovec *parts, int many) {
    return at_file(fd) && fails(0) ? -1 : REAL(writev)(fd, parts, many);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    return at_file(fd) && fails(0) ? -1 : REAL(pwrite)(fd, bytes, size, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    return at_file(fd) && fails(0) ? -1 : REAL(pwrite64)(fd, bytes, size, offset);
}

int ftruncate(int fd, off_t size) { return at_file(fd) && fails(0) ? -1 : REAL(ftruncate)(fd, size); }
int fsync(int fd) { return at_file(fd) && fails(0) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return at_file(fd) && fails(0) ? -1 : REAL(fdatasync)(fd); }

int mkdir(const char *path, mode_t mode) { return at_path(AT_FDCWD, path) && fails(1) ? -1 : REAL(mkdir)(path, mode); }

int rename(const char *one, const char *other) {
    return at_path(AT_FDCWD, other) && fails(1) ? -1 : REAL(rename)(one, other);
}

int renameat(int from, const char *one, int to, const char *other) {
    return at_path(to, other) && fails(1) ? -1 : REAL(renameat)(from, one, to, other);
}

int renameat2(int from, const char *one, int to, const char *other, unsigned int flags) {
    return at_path(to, other) && fails(1) ? -1 : REAL(renameat2)(from, one, to, other, flags);
}

int symlink(const char *target, const char *path) {
    return at_path(AT_FDCWD, path) && fails(1) ? -1 : REAL(symlink)(target, path);
}

int unlink(const char *path) { return at_path(AT_FDCWD, path) && fails(1) ? -1 : REAL(unlink)(path); }

int unlinkat(int folder, const char *path, int flags) {
    return at_path(folder, path) && fails(1) ? -1 : REAL(unlinkat)(folder, path, flags);
}

int rmdir(const char *path) { return at_path(AT_FDCWD, path) && fails(1) ? -1 : REAL(rmdir)(path); }

static long behind(void) { return shared && strcmp(doing, "clock") == 0 && shared->calls >= at ? number : 0; }

int clock_gettime(clockid_t clock, struct timespec *found) {
    int result = REAL(clock_gettime)(clock, found);
    if (result == 0 && clock == CLOCK_REALTIME) found->tv_sec -= behind();
    return result;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    int result = REAL(gettimeofday)(found, zone);
    if (result == 0) found->tv_sec -= behind();
    return result;
}

time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
