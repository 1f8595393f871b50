/* The wall clock, some seconds off: preloaded into the app, steered through a shared file of one
 * 64-bit number. The steady clock is left alone, as a real step of the time leaves it alone.
 * (libfaketime 0.9.10 breaks sleeps to an absolute steady time, which is how Python sleeps.) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real_gettime)(clockid_t, struct timespec *);
static volatile int64_t *offset;

__attribute__((constructor)) static void set_up(void)
{
    const char *path = getenv("ARUS_FAULTS_CLOCK");
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (path == NULL)
        return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *map = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        offset = map;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (real_gettime == NULL)
        set_up();
    int result = real_gettime(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && offset != NULL)
        now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now != NULL)
        *now = precise.tv_sec;
    return precise.tv_sec;
}
