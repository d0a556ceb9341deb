/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table: look up, insert, remove (docs/design/flow-tables.md). A bucket is a line of memory and tells what is known of a
 * tuple; the cell of a place has the rest, of most kinds the flow. Places change under a lock. Readers take none, and a cell
 * may become another tuple's at any moment: who copies one compares the tuple afterwards.
 */
#pragma once

#include "flow.h"

#define KINDS_HALF_OPEN (1 << KIND_STRAY | 1 << KIND_HANDSHAKE)
#define KINDS_ESTABLISHED (1 << KIND_CLOSING | 1 << KIND_ESTABLISHED)
#define KINDS_CONNECTIONLESS (1 << KIND_QUESTION | 1 << KIND_ASSURED)
#define KINDS_RECORD (1 << KIND_ASKER | 1 << KIND_COMER | 1 << KIND_RECORD)

static inline __u32 kinds_of(enum table table)
{
	return table == TABLE_HALF_OPEN ? KINDS_HALF_OPEN : table == TABLE_ESTABLISHED ? KINDS_ESTABLISHED : KINDS_CONNECTIONLESS;
}

static inline enum kind kind_of(const struct flow *flow, enum table table)
{
	if (table == TABLE_CONNECTIONLESS)
		return flow->flags & FLOW_ASSURED ? KIND_ASSURED : KIND_QUESTION;
	if (table == TABLE_HALF_OPEN)
		return flow->flags & FLOW_STRAY ? KIND_STRAY : KIND_HANDSHAKE;
	return is_closing(flow) ? KIND_CLOSING : KIND_ESTABLISHED;
}

static inline __u32 bucket_of(__u64 digest)
{
	return digest >> 1 & last_bucket; /* digests are odd */
}

/* Where what a bucket has no room for stands. Both are under one lock. */
static inline __u32 other_bucket(__u32 index)
{
	return index ^ (last_bucket + 1) / 2;
}

static inline struct bucket_lock *lock_of(__u32 bucket)
{
	__u32 index = bucket & last_bucket / 2 & (BUCKET_LOCKS - 1);

	return bpf_map_lookup_elem(&bucket_locks, &index);
}

static inline struct bucket *get_bucket(__u32 index)
{
	return bpf_map_lookup_elem(&buckets, &index);
}

/* NULL for no place, which is -1. */
static inline struct flow *get_cell(__u32 place)
{
	return bpf_map_lookup_elem(&cells, &place);
}

static inline enum kind kind_at(__u64 place)
{
	return place >> PLACE_KIND_SHIFT & 15;
}

/* Whether the place is the digest's, and of one of these kinds: 1 or 0, by arithmetic, as after a branch the verifier forks. */
static inline __u32 is_of(__u64 place, __u64 digest, __u32 kinds)
{
	return (((place ^ digest) >> PLACE_KEY_SHIFT) - 1) >> 63 & kinds >> kind_at(place);
}

/* A bit for each place of the bucket that is the digest's. */
static inline __u32 places_of(const struct bucket *bucket, __u64 digest)
{
	__u32 found = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < PLACES; i++)
		found |= (__u32)((((bucket->place[i] ^ digest) >> PLACE_KEY_SHIFT) - 1) >> 63) << i;
	asm volatile("" : "+r"(found));
	return found;
}

/* Of these the first that is of one of these kinds; PLACES for none. */
static inline __u32 first_of(const struct bucket *bucket, __u32 found, __u32 kinds)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PLACES; i++)
		if (found >> i & kinds >> kind_at(bucket->place[i]) & 1)
			return i;
	return PLACES;
}

/* Where a digest stands if it is the first of its bucket. */
static inline __u32 preferred(__u64 digest)
{
	return (digest >> 32 & 0xffff) * PLACES_VALIDATED >> 16;
}

/* The place of the digest that is of one of these kinds; -1 for none. */
__noinline int find_place(__u64 digest, __u32 kinds)
{
	__u32 index = bucket_of(digest), place, found;
	const struct bucket *bucket = get_bucket(index);

	if (!bucket)
		return -1;
	if (likely(is_of(bucket->place[preferred(digest)], digest, kinds)))
		return index * PLACES + preferred(digest);
	found = places_of(bucket, digest);
	place = found ? first_of(bucket, found, kinds | 1 << KIND_FREE) : PLACES;
	if (unlikely(place < PLACES && kind_at(bucket->place[place & (PLACES - 1)]) == KIND_FREE)) /* it has just moved */
		place = first_of(bucket, places_of(bucket, digest), kinds);
	if (place == PLACES && unlikely(bucket->place[0] & PLACE_SPILLED)) {
		index = other_bucket(index);
		bucket = get_bucket(index);
		place = bucket ? first_of(bucket, places_of(bucket, digest), kinds) : PLACES;
	}
	return place < PLACES ? index * PLACES + place : -1;
}

/*
 * Has the cell on its way that a new entry of the digest mostly gets, while the bucket is: a line of memory takes hundreds of
 * instructions to come. Nothing waits for what is read here.
 */
static inline void fetch_cell(__u64 digest)
{
	const volatile __u64 *cell = (const volatile __u64 *)get_cell(bucket_of(digest) * PLACES + preferred(digest));

	if (likely(cell))
		asm volatile("" : : "r"(cell[0]), "r"(cell[sizeof(struct flow) / sizeof(*cell) - 1]));
}

#define KNOWN_PLACE_SHIFT 16

static inline __u32 known_in(__u32 index, __u64 digest)
{
	const struct bucket *bucket = get_bucket(index);
	__u32 found = bucket ? places_of(bucket, digest) : 0, known = 0;

	if (likely(!found))
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PLACES; i++) {
		known |= (found >> i & 1) << kind_at(bucket->place[i]);
		if (found >> i & KINDS_ESTABLISHED >> kind_at(bucket->place[i]) & 1) /* two for a moment, while it moves */
			known = (known & ((1 << KNOWN_PLACE_SHIFT) - 1)) | i << KNOWN_PLACE_SHIFT;
	}
	return known & ~(1 << KIND_FREE);
}

/*
 * What is known of the digest: a bit for each kind of place that it has. From KNOWN_PLACE_SHIFT on, where in its bucket the
 * connection stands, PLACES more in the other one.
 */
__noinline int known_of(__u64 digest)
{
	__u32 index = bucket_of(digest), known = known_in(index, digest), other = 0;
	const struct bucket *bucket = get_bucket(index);

	if (bucket && unlikely(bucket->place[0] & PLACE_SPILLED))
		other = known_in(other_bucket(index), digest);
	if (!(other & KINDS_ESTABLISHED) || known & KINDS_ESTABLISHED)
		return known | (other & ((1 << KNOWN_PLACE_SHIFT) - 1));
	return known | other | PLACES << KNOWN_PLACE_SHIFT;
}

/* The cell of the digest, if it stands where it likes to, and is of one of these kinds. */
static inline struct flow *find_near(__u64 digest, __u32 kinds)
{
	__u32 index = bucket_of(digest);
	const struct bucket *bucket = get_bucket(index);

	if (!bucket || unlikely(!is_of(bucket->place[preferred(digest)], digest, kinds)))
		return NULL;
	return get_cell(index * PLACES + preferred(digest));
}

/* The entry with this digest, whatever its tuple. */
static inline struct flow *find_digest(__u64 digest, enum table table)
{
	struct flow *flow = find_near(digest, kinds_of(table));

	return likely(flow) ? flow : get_cell(find_place(digest, kinds_of(table)));
}

/* Time in places: in units of 512 jiffies, which turn over after three days at 1000 Hz. */
static inline __u32 stamp_now(void)
{
	return now() >> PLACE_STAMP_SHIFT & (PLACE_SPILLED - 1);
}

#define STAMPS_AHEAD 16 /* that another CPU may be */

static inline __u32 stamp_age(__u64 place, __u32 time)
{
	__u32 age = (time - (__u32)place) & (PLACE_SPILLED - 1);

	return age & -((age - (PLACE_SPILLED - STAMPS_AHEAD)) >> 31);
}

/* What a place becomes. That something has spilled from its bucket stays. */
static inline void set_place(struct bucket *bucket, __u32 way, __u64 digest, enum kind kind, __u32 stamp)
{
	volatile __u64 *place = &bucket->place[way & (PLACES - 1)];

	*place = digest >> PLACE_KEY_SHIFT << PLACE_KEY_SHIFT | (__u64)kind << PLACE_KIND_SHIFT | stamp |
		 (*place & PLACE_SPILLED);
}

/* Gives the places of the digest up that are of these kinds, but this one of them. */
static inline void free_places(struct bucket *bucket, __u64 digest, __u32 kinds, __u32 but)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PLACES; i++)
		if (i != but && is_of(bucket->place[i], digest, kinds))
			bucket->place[i] &= PLACE_SPILLED;
}

/* 1 where a number is that one, else 0, by arithmetic. */
static inline __u32 is(__u32 number, __u32 that)
{
	return ((number ^ that) - 1) >> 31;
}

/* What the last place of a bucket is not for. A connection that closes may go on. */
#define KINDS_VALIDATED (1 << KIND_RECORD | 1 << KIND_ASSURED | KINDS_ESTABLISHED)

static inline bool is_misplaced(__u32 place, __u32 kind)
{
	return KINDS_VALIDATED >> kind & 1 && (place & (PLACES - 1)) >= PLACES_VALIDATED;
}

#define LEAST_LIFE 8
#define LIFE(kind, power) ((__u64)((power) - LEAST_LIFE) << (kind) * 4)

/* Whether what a place holds is not over: 1 or 0. Powers of two stamps, at least enum idle_seconds; at 1000 Hz. */
static inline __u32 is_live(__u64 place, __u32 time)
{
	__u64 powers = LIFE(KIND_MARK, 8) | LIFE(KIND_STRAY, 9) | LIFE(KIND_HANDSHAKE, 9) | LIFE(KIND_QUESTION, 9) |
		       LIFE(KIND_ASKER, 9) | LIFE(KIND_COMER, 18) | LIFE(KIND_CLOSING, 12) | LIFE(KIND_NOTE, 13) |
		       LIFE(KIND_RECORD, 13) | LIFE(KIND_ASSURED, 9) | LIFE(KIND_ESTABLISHED, 18) | LIFE(KIND_TAKEN, 23);
	__u32 limit = (1U << LEAST_LIFE << (powers >> kind_at(place) * 4 & 15)) >>
		      (hertz >= 600 ? 0 : hertz > 250 ? 1 : hertz >= 200 ? 2 : 3);

	return (stamp_age(place, time) - limit) >> 31;
}

/* How readily a place is given up, lowest first. */
enum level {
	LEVEL_FREE,
	LEVEL_OVER,
	LEVEL_BEYOND, /* of a kind that has more than its share, with the newcomer */
	LEVEL_KINDS,  /* from here on by kind */
};

#define LEVEL(kind) ((kind) + LEVEL_KINDS)

/*
 * The level of a place above its age: the oldest first. What the host's packets left there is beyond its share only for
 * more of its kind. `counts`: see first_to_go().
 */
static inline __u32 rank_of(__u64 place, __u32 time, __u32 kind, __u64 counts)
{
	__u32 its = kind_at(place), used = 1 - is(its, KIND_FREE), beyond = (PLACE_SHARE - (__u32)(counts >> its * 4 & 15)) >> 31;
	__u32 first = beyond & ((its - KIND_NOTE) >> 31 | (is(its, kind) & (its - KIND_ASSURED) >> 31));
	__u32 level = used + (used & is_live(place, time)) * (1 + (1 - first) * (its + 1));

	return level * PLACE_SPILLED + (PLACE_SPILLED - 1 - stamp_age(place, time));
}

/* Whether the question may become a conversation: its bucket has less than their share. */
__noinline int may_be_assured(__u64 digest)
{
	const struct bucket *bucket = get_bucket((__u32)find_place(digest, KINDS_CONNECTIONLESS) / PLACES);
	__u32 count = 0, time = stamp_now();

	if (!bucket)
		return false;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PLACES; i++)
		count += is(kind_at(bucket->place[i]), KIND_ASSURED) & is_live(bucket->place[i], time);
	return count < PLACE_SHARE;
}

/* The order in which equals are given up: from one place on, and the last of a bucket last. */
static inline __u32 nth_from(__u32 from, __u32 n)
{
	__u32 place = n < PLACES_VALIDATED ? (from + n) % PLACES_VALIDATED : n;

	asm volatile("" : "+r"(place)); /* the verifier knows no bound of a remainder */
	return place & (PLACES - 1);
}

/* The place of this bucket that is given up first: its rank above its number, counted from this one on. */
__noinline int first_to_go(__u32 index, __u32 from, __u32 kind)
{
	const struct bucket *bucket = get_bucket(index);
	__u32 time = stamp_now(), best = ~0U >> 1, rank;
	__u64 counts = 1ULL << (kind & 15) * 4; /* of what is live, four bits for each kind */

	if (!bucket)
		return best;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PLACES; i++)
		counts += (__u64)is_live(bucket->place[i], time) << kind_at(bucket->place[i]) * 4;
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < PLACES - is_misplaced(PLACES - 1, kind); n++) {
		rank = rank_of(bucket->place[nth_from(from, n)], time, kind, counts) * PLACES + n;
		best = rank < best ? rank : best;
	}
	return best;
}

/* What takes no place from a higher kind, not even from another that was not validated. */
#define KINDS_MODEST (1 << KIND_MARK | 1 << KIND_ASKER | 1 << KIND_COMER)

/*
 * The place for a flow of this kind; -1 for none: what was not validated takes no place from what was, and a mark none from
 * the stray beside it. What has a place takes none from others.
 */
static inline int choose_place(__u64 digest, __u32 kind, struct put *put)
{
	__u32 index = bucket_of(digest), best, other;
	const struct bucket *bucket = get_bucket(index);
	__u32 may_take;

	if (bucket && likely(kind_at(bucket->place[preferred(digest)]) == KIND_FREE))
		return index * PLACES + preferred(digest);
	best = first_to_go(index, preferred(digest), kind);
	if (best >= LEVEL(KIND_RECORD) * PLACE_SPILLED * PLACES && kind != KIND_MARK) {
		other = first_to_go(other_bucket(index), preferred(digest), kind);
		if (other < best) {
			best = other;
			index = other_bucket(index);
		}
	}
	may_take = LEVEL(kind > KIND_NOTE || KINDS_MODEST >> kind & 1 ? kind : KIND_NOTE) + 1;
	if ((int)put->place >= 0 && !is_misplaced(put->place, kind))
		may_take = LEVEL_OVER + 1;
	if (best >= may_take * PLACE_SPILLED * PLACES)
		return -1;
	return index * PLACES + nth_from(preferred(digest), best & (PLACES - 1));
}

static inline bool has_path_of(const struct flow *flow, const struct flow *other)
{
	return *(__u64 *)&flow->ifindex == *(__u64 *)&other->ifindex && mac_equal(flow->mac, other->mac) &&
	       !((flow->flags ^ other->flags) & FLOW_HOP);
}

/* Plans put_flow(). What has another path is written elsewhere if there is room: so no reply sees half of one. */
__noinline int plan_put(__u64 digest, __u32 kind, __u32 over)
{
	struct bucket_lock *lock = lock_of(bucket_of(digest));
	struct scratch *scratch = get_scratch();
	struct put *put = &scratch->put;
	struct flow *cell;
	int other;

	if (!lock)
		return -1;
	put->changes = *(volatile __u32 *)&lock->changes; /* read before all else */
	put->place = find_place(digest, over);
	cell = get_cell(put->place);
	put->hidden = !cell || !has_path_of(cell, &scratch->flow) || is_misplaced(put->place, kind);
	if (put->hidden) {
		other = choose_place(digest, kind, put);
		if (other >= 0 || is_misplaced(put->place, kind))
			put->place = other;
	}
	return put->place;
}

enum put_result {
	PUT_DONE,
	PUT_NO_ROOM,
	PUT_AGAIN, /* another CPU changed these buckets since the plan was made */
};

/* In this order: who reads a path compares tuple and interface afterwards. */
static inline void write_cell(struct flow *cell, const struct flow *flow)
{
	volatile __u64 *to = (volatile __u64 *)cell;
	const __u64 *from = (const __u64 *)flow;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < sizeof(*flow) / sizeof(*to); i++)
		to[i] = from[i];
}

/* Does what is planned. What the tuple had goes last: who looks for it meanwhile finds one or the other. */
__noinline int do_put(__u64 digest, __u32 kind, __u32 over)
{
	struct scratch *scratch = get_scratch();
	__u32 place = scratch->put.place, index = bucket_of(digest), time = stamp_now();
	bool hidden = scratch->put.hidden;
	struct bucket *home = get_bucket(index), *other = get_bucket(other_bucket(index)), *bucket;
	struct bucket_lock *lock = lock_of(index);
	struct flow *cell = get_cell(place);

	if (!home || !other || !lock || !cell)
		return PUT_NO_ROOM;
	bucket = place / PLACES == index ? home : other;
	bpf_spin_lock(&lock->lock);
	if (*(volatile __u32 *)&lock->changes != scratch->put.changes) {
		bpf_spin_unlock(&lock->lock);
		return PUT_AGAIN;
	}
	lock->changes++;
	if (bucket == other)
		home->place[0] |= PLACE_SPILLED;
	if (hidden)
		set_place(bucket, place, digest, KIND_TAKEN, time);
	if (kind != KIND_MARK)
		write_cell(cell, &scratch->flow);
	if (hidden && !orders_stores) { /* what was written in one critical section is seen before what is in the next */
		bpf_spin_unlock(&lock->lock);
		bpf_spin_lock(&lock->lock);
	}
	set_place(bucket, place, digest, kind, time);
	free_places(home, digest, over, bucket == home ? place & (PLACES - 1) : PLACES);
	if (home->place[0] & PLACE_SPILLED)
		free_places(other, digest, over, bucket == other ? place & (PLACES - 1) : PLACES);
	bpf_spin_unlock(&lock->lock);
	return PUT_DONE;
}

/* Puts the scratch flow in a place of this kind; what its tuple has of the kinds `over` goes at the same moment. */
static inline bool put_flow(__u64 digest, enum kind kind, __u32 over)
{
	int result = PUT_AGAIN;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 3 && result == PUT_AGAIN; i++)
		result = plan_put(digest, kind, over) < 0 ? PUT_NO_ROOM : do_put(digest, kind, over);
	return result == PUT_DONE;
}

/* Gives up what the digest has of these kinds. */
__noinline int forget(__u64 digest, __u32 kinds)
{
	__u32 index = bucket_of(digest);
	struct bucket *home = get_bucket(index), *other = get_bucket(other_bucket(index));
	struct bucket_lock *lock = lock_of(index);

	if (!home || !other || !lock || find_place(digest, kinds) < 0)
		return 0;
	bpf_spin_lock(&lock->lock);
	lock->changes++;
	free_places(home, digest, kinds, PLACES);
	free_places(other, digest, kinds, PLACES);
	bpf_spin_unlock(&lock->lock);
	return 0;
}

/*
 * Has the place of the digest be of this kind in place of one of these, or of the same, KIND_FREE; not where that is
 * misplaced. Under the lock the cell is that tuple's: it gets this state and these flags besides. Returns whether it did.
 */
__noinline int set_kind(__u64 digest, __u32 kinds, __u32 kind, __u32 state, __u32 flags)
{
	__u32 place = find_place(digest, kinds), way = place, time = stamp_now();
	struct bucket *bucket = get_bucket(place / PLACES);
	struct bucket_lock *lock = lock_of(bucket_of(digest));
	struct flow *cell = get_cell(place);
	bool found;

	if (!bucket || !lock || !cell)
		return false;
	bpf_spin_lock(&lock->lock);
	found = is_of(bucket->place[way & (PLACES - 1)], digest, kinds) && !is_misplaced(way, kind);
	if (found) {
		lock->changes += !!kind; /* another CPU may just have chosen it as of the kind before */
		if (state)
			cell->state |= state;
		if (flags)
			cell->flags |= flags;
		set_place(bucket, way, digest, kind ? kind : kind_at(bucket->place[way & (PLACES - 1)]), time);
	}
	bpf_spin_unlock(&lock->lock);
	return found;
}

/* Has the record of this digest know that a packet of this class was counted, as moved or as routed. */
__noinline int set_counted(__u64 digest, __u32 bit, __u32 moved)
{
	__u32 place = find_place(digest, KINDS_RECORD), way = place;
	struct bucket *bucket = get_bucket(place / PLACES);
	struct bucket_lock *lock = lock_of(bucket_of(digest));
	struct record *record = (struct record *)get_cell(place);

	if (!bucket || !lock || !record)
		return 0;
	bpf_spin_lock(&lock->lock);
	if (is_of(bucket->place[way & (PLACES - 1)], digest, KINDS_RECORD))
		*(moved ? &record->moved_of : &record->routed_of) |= bit;
	bpf_spin_unlock(&lock->lock);
	return 0;
}

#define STAMPS_UNTOLD 2 /* so that few packets write, and take the lock */

/* What the place holds was heard of just now. */
static __noinline void renew_place(__u64 digest, __u32 kinds)
{
	__u32 place = find_place(digest, kinds);
	struct bucket *bucket = get_bucket(place / PLACES);

	if (bucket && stamp_age(bucket->place[place & (PLACES - 1)], stamp_now()) >= STAMPS_UNTOLD)
		set_kind(digest, kinds, KIND_FREE, 0, 0);
}

/* The packet's flow in this table, idle or not. */
static inline struct flow *find(const struct packet *packet, enum table table)
{
	struct flow *flow = find_digest(packet->digest, table);

	return flow && likely(tuple_equal(&flow->tuple, &packet->tuple)) ? flow : NULL;
}

static inline struct flow *find_live(const struct packet *packet, enum table table)
{
	struct flow *flow = find(packet, table);

	return flow && likely(!is_idle(flow, table)) ? flow : NULL;
}

/* find_live(), off the fast path: a call costs less there than another copy costs the verifier. */
static __noinline struct flow *look_up(const struct packet *packet, enum table table)
{
	return find_live(packet, table);
}

/* Keeps the idle entry of what we closed and send again (docs/design/flow-life.md). A new handshake goes before. */
static __noinline bool revive(const struct packet *packet, struct flow *flow)
{
	if (packet->tcp_flags & (TCP_SYN | TCP_RST) || !(flow->state & FLOW_CLOSING) ||
	    age(flow->seen) > seconds(IDLE_UNANSWERED) || find_live(packet, TABLE_HALF_OPEN))
		return false;
	flow->seen = now();
	renew_place(packet->digest, KINDS_ESTABLISHED);
	return true;
}

/* The packet's connection, idle or not; `known` is what is known of its digest, if that is not where it likes to stand. */
static inline struct flow *find_connection(const struct packet *packet, __u32 *known)
{
	struct flow *flow = find_near(packet->digest, KINDS_ESTABLISHED);
	__u32 index;

	if (unlikely(!flow)) {
		*known = known_of(packet->digest);
		if (likely(!(*known & KINDS_ESTABLISHED)))
			return NULL;
		index = bucket_of(packet->digest);
		if (*known & PLACES << KNOWN_PLACE_SHIFT)
			index = other_bucket(index);
		flow = get_cell(index * PLACES + (*known >> KNOWN_PLACE_SHIFT & (PLACES - 1)));
	}
	return flow && likely(tuple_equal(&flow->tuple, &packet->tuple)) ? flow : NULL;
}

/* The connection before the handshake. `leaves`: the packet does now, and is not what an error quotes. */
static inline struct flow *find_tcp(const struct packet *packet, enum table *table, bool leaves)
{
	__u32 known = KINDS_HALF_OPEN;
	struct flow *flow = find_connection(packet, &known);

	*table = TABLE_ESTABLISHED;
	if (flow && (likely(!is_idle(flow, TABLE_ESTABLISHED)) || (leaves && revive(packet, flow))))
		return flow;
	*table = TABLE_HALF_OPEN;
	return known & KINDS_HALF_OPEN ? find_live(packet, TABLE_HALF_OPEN) : NULL;
}

/* Copies the packet's entry; false where its memory has become another's meanwhile. */
static inline bool copy_flow(struct flow *copy, const struct flow *flow, const struct packet *packet)
{
	*copy = *flow;
	flow = after_reading(flow, (const __u64 *)copy, sizeof(*copy) / sizeof(__u64));
	return tuple_equal(&flow->tuple, &packet->tuple);
}

/*
 * Enters the scratch flow in the place of a stray or an idle entry of its tuple, or, as `over_live`, of any, and of its
 * handshake. Else another flow has this digest, or there is no room: that is counted, but for strays. Returns whether it did.
 */
__noinline int enter_flow(__u32 table, __u32 over_live)
{
	struct scratch *scratch = get_scratch();
	__u64 digest = scratch->packet.digest;
	const struct flow *old = get_cell(find_place(digest, kinds_of(table)));
	bool done = false;

	if (!old || (tuple_equal(&old->tuple, &scratch->flow.tuple) &&
		     (over_live || old->flags & FLOW_STRAY || is_idle(old, table))))
		done = put_flow(digest, kind_of(&scratch->flow, table), kinds_of(table) | (over_live ? KINDS_HALF_OPEN : 0));
	if (!(scratch->flow.flags & FLOW_STRAY))
		count_event((done ? EVENT_ADMITTED_HALF_OPEN : EVENT_INSERT_FAILED_HALF_OPEN) + table);
	return done;
}
