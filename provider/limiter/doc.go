// Package limiter decides when a request to a service may be sent. What a service bears is learned from its answers,
// not assumed.
//
// # Limiter
//
// A Limiter bounds the requests to one service. A caller acquires it before each request, and releases it with the
// request's outcome:
//
//   - concurrency: at most Limits.InFlight requests are under way. Only a request that is under way takes a slot. A
//     caller that waits, for any reason, takes nothing that another one needs, so a caller needs no concurrency limit
//     of its own.
//   - not-before: until that moment nothing is sent. It is what the service asked for (Retry-After), or else an
//     exponential backoff with jitter after throttling and after several failures in a row. Requests whose deadline is
//     earlier fail at once.
//   - circuit breaker: after several failures in a row it is open, and one request at a time is sent as a probe.
//   - rate: there is none until the service throttles. Then it is half of what was sent in the last ten seconds,
//     halved again with each further throttling. It rises slowly while the service answers, and is lifted in the end.
//     Limits.Rate fixes a highest rate for a service that is known to bear no more.
//
// Requests for starting Pods (WithUrgency) go before all others, every two seconds at the least. Then come those of refreshes (WithHeld), the
// one that replaces the oldest first.
//
// # Many nodes at one service
//
// Nodes share a service without knowing of each other. What keeps their shares equal, and all of them bounded, under a service that bears less
// than they ask for: the rate rises by steps and falls by halves; it rises faster where what waits is older; the lowest rate is so low that
// thousands of nodes at it are no overload; and every wait has jitter, since a service that counts in windows would throttle those that always
// come late in one. test/scale simulates it.
//
// # Limiters
//
// Limiters keeps one Limiter per host, and below a host one per quota: what the service counts requests by, where that
// is less than the host. Entra ID throttles by tenant and client, so one client's 429 must not stop the others of a
// node. Answers that say that the service does not work (5xx, no answer) count for the host. Limiters that are not used
// are dropped after ten minutes.
package limiter
