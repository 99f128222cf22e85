/*
 * A clock that is off: by so many seconds as the file says that CLOCK_FILE names. Then come the microseconds that pass between
 * learning the time and making use of it, as on a busy machine. Loaded into a server before the C library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct shared
{
	long		offset;
	long		pause;
};

static volatile struct shared *shared(void)
{
	static volatile struct shared *shared;
	static struct shared none;

	if (!shared)
	{
		const char *name = getenv("CLOCK_FILE");
		int			file = name ? open(name, O_RDONLY) : -1;
		void	   *found = file < 0 ? MAP_FAILED : mmap(0, sizeof(struct shared), PROT_READ, MAP_SHARED, file, 0);

		if (found == MAP_FAILED)
			return &none;
		shared = found;
	}
	return shared;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	static int (*real) (clockid_t, struct timespec *);

	if (!real)
		real = dlsym(RTLD_NEXT, "clock_gettime");
	int			failed = real(clock, now);

	if (clock == CLOCK_REALTIME)
		now->tv_sec += shared()->offset;
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	static int (*real) (struct timeval *, void *);

	if (!real)
		real = dlsym(RTLD_NEXT, "gettimeofday");
	int			failed = real(now, zone);

	now->tv_sec += shared()->offset;
	usleep(shared()->pause);
	return failed;
}

time_t time(time_t *place)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (place)
		*place = now.tv_sec;
	return now.tv_sec;
}
