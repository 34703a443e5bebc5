/* Counting what Lua allocates, for a process that has a cap on its memory. */
#include "heap.h"

#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "task.h"

enum { SLACK = 8, MOST = 4, STEP = 32 }; /* parts of the limit */

bool sd_heap_refused;

static struct {
  lua_Alloc inner; /* NULL: nothing is counted */
  void *inner_ud;
  size_t used, limit;
  size_t next; /* with more than this, the collector is to finish a cycle at once */
  size_t bar;  /* and with more than this, there is nothing for the user's code */
  int stepmul; /* of the collector, while it is in no hurry */
  bool hurry;
} heap;

static unsigned shelters;

void sd_heap_shelter(void) {
  shelters++;
}

void sd_heap_expose(void) {
  shelters--;
}

void sd_heap_leave_shelters(void) {
  shelters = 0;
}

/* An allocator cannot collect: whoever allocates may hold what nobody refers to yet.
 * But it can make the next step of the collector a whole cycle. That is before long:
 * the interpreter looks at each table, string and closure it makes. */
static void hurry(size_t used) {
  lua_State *L = sd_the_vm.L;
  int before = lua_gc(L, LUA_GCSETSTEPMUL, 0);
  if (!heap.hurry) heap.stepmul = before;
  heap.hurry = true;
  heap.next = used + heap.limit / STEP;
  lua_gc(L, LUA_GCRESTART, 0);
}

static void calm_down(void) {
  heap.next = heap.limit;
  heap.bar = heap.limit + heap.limit / SLACK;
  if (!heap.hurry) return;
  heap.hurry = false;
  lua_gc(sd_the_vm.L, LUA_GCSETSTEPMUL, heap.stepmul);
}

/* Above the limit there is some room, so that the collector gets its turn first. */
static bool is_too_much(size_t used) {
  if (used <= heap.bar || shelters > 0) return false;
  return sd_the_vm.scoreboard != NULL && sd_scoreboard_in_pool(sd_the_vm.scoreboard);
}

/* Who catches the error needs a little to go on, and the collector a turn once more. */
static void refuse(void) {
  sd_heap_refused = true;
  if (heap.bar < heap.limit + heap.limit / MOST) heap.bar += heap.limit / STEP;
}

/* What a block costs: allocators keep a word with it, and round up. Small objects take
 * a third more than their size. */
static size_t cost(size_t size) {
  return size > 0 ? (size + 23) & ~(size_t)15 : 0;
}

static void *allocate(void *unused, void *block, size_t old, size_t wanted) {
  (void)unused;
  size_t rest = heap.used > cost(old) ? heap.used - cost(old) : 0;
  size_t used = rest + cost(wanted);
  if (wanted > old) {
    if (is_too_much(used)) {
      refuse();
      return NULL;
    }
    if (used > heap.next) hurry(used);
  }
  void *made = heap.inner(heap.inner_ud, block, old, wanted);
  if (made != NULL || wanted == 0) heap.used = used;
  if (heap.used < heap.limit && (heap.hurry || heap.bar != heap.limit + heap.limit / SLACK)) calm_down();
  return made;
}

static int l_collect(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT, 0);
  return 0;
}

/* A recursion through C leaves tens of megabytes of stack behind, which nobody uses and
 * the kernel keeps. What is below us goes back, but for a little that we shall need. */
static void trim_stack(void) {
  enum { MARGIN = 1 << 18 };
  pthread_attr_t attributes;
  void *lowest;
  size_t size;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
  pthread_attr_getstack(&attributes, &lowest, &size);
  pthread_attr_destroy(&attributes);
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  uintptr_t from = ((uintptr_t)lowest + page - 1) & ~(page - 1);
  uintptr_t to = ((uintptr_t)__builtin_frame_address(0) - MARGIN) & ~(page - 1);
  if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}

/* A finalizer that raises ends the collection, and would end whoever has begun it. */
static void collect(lua_State *L) {
  for (int tries = 8; tries > 0 && lua_cpcall(L, l_collect, NULL) != 0; tries--) lua_pop(L, 1);
  malloc_trim(0); /* what finalizers have freed goes back to the machine */
  trim_stack();
}

static bool is_above_limit(void) {
  return heap.inner != NULL && heap.used > heap.limit;
}

/* LuaJIT's buffer for making strings, as large as the largest, loses half of itself in
 * each collection; and what finalizers hold goes one later. */
static void collect_more(void) {
  for (size_t before = SIZE_MAX; is_above_limit() && heap.used < before - before / 16;) {
    before = heap.used;
    collect(sd_the_vm.L);
  }
}

void sd_heap_relieve(void) {
  sd_scoreboard *sb = sd_the_vm.scoreboard;
  sd_heap_refused = false;
  if (sb != NULL) sd_scoreboard_beat(sb, 0); /* who was refused has let its loop go; this may take as long again */
  collect(sd_the_vm.L);
  if (sb == NULL) return;
  collect_more();
  atomic_store(&sd_scoreboard_own(sb)->starved, is_above_limit());
}

void sd_heap_obey(lua_State *L) {
  sd_scoreboard *sb = sd_the_vm.scoreboard;
  if (sb != NULL && atomic_exchange(&sd_scoreboard_own(sb)->order.collect, 0) != 0) collect(L);
}

/* 0: it cannot be known now. */
static uint64_t resident(void) {
  unsigned long long pages = 0;
  FILE *statm = fopen("/proc/self/statm", "re");
  if (statm == NULL) return 0;
  if (fscanf(statm, "%*u %llu", &pages) != 1) pages = 0;
  fclose(statm);
  return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Nobody is in Lua now, and the stack is short: what there is after a collection is kept. */
void sd_heap_weigh(void) {
  if (sd_the_vm.scoreboard == NULL) return;
  sd_order *order = &sd_scoreboard_own(sd_the_vm.scoreboard)->order;
  if (atomic_load(&order->weigh) == 0) return;
  atomic_store(&order->collect, 0);
  collect(sd_the_vm.L);
  collect_more();
  uint64_t kept = resident();
  if (kept == 0) return; /* once more at the next beat */
  atomic_store(&order->weigh, 0);
  atomic_store(&order->kept, kept);
}

static size_t counted(lua_State *L) {
  return ((size_t)lua_gc(L, LUA_GCCOUNT, 0) << 10) + (size_t)lua_gc(L, LUA_GCCOUNTB, 0);
}

static void begin(lua_State *L) {
  if (heap.inner != NULL) return;
  heap.inner = lua_getallocf(L, &heap.inner_ud);
  heap.used = counted(L) / 4 * 5; /* what the blocks that there are cost is not known */
  lua_setallocf(L, allocate, NULL);
}

static void end(lua_State *L) {
  if (heap.inner == NULL) return;
  if (heap.hurry) calm_down();
  lua_setallocf(L, heap.inner, heap.inner_ud);
  heap.inner = NULL;
}

/* heap_limit(bytes | nil) → bytes that the Lua heap has now. */
static int l_heap_limit(lua_State *L) {
  lua_Number limit = luaL_optnumber(L, 1, 0);
  luaL_argcheck(L, limit >= 0 && limit < 9007199254740992.0, 1, "no number of bytes");
  lua_pushnumber(L, (lua_Number)counted(L));
  if (limit == 0) {
    end(L);
    return 1;
  }
  begin(L);
  heap.limit = (size_t)limit;
  calm_down();
  return 1;
}

void sd_heap_register(lua_State *L) {
  lua_pushcfunction(L, l_heap_limit);
  lua_setfield(L, -2, "heap_limit");
}
