// Package flight lets concurrent callers that want the same thing share one call.
//
// The call runs in a goroutine of its own, with the values of the first caller's context but without its deadline. It
// is canceled when the last caller that waits for it has given up, so a caller that gives up neither ends nor keeps
// alive what others wait for. That is the difference to golang.org/x/sync/singleflight. A panic in a call is an error
// of that call.
package flight
