// Package logkeys holds the keys of structured log lines, so that one thing has one name in every line.
package logkeys

// The keys, in alphabetical order.
const (
	Class          = "class"
	Code           = "code"
	Driver         = "driver"
	Duration       = "duration"
	Error          = "error"
	Event          = "event"
	Method         = "method"
	Pod            = "pod"
	Reason         = "reason"
	Request        = "request"
	ServiceRequest = "x-ms-request-id"
	Socket         = "socket"
	Span           = "span_id"
	Stack          = "stack"
	Target         = "target"
	Task           = "task"
	Trace          = "trace_id"
	Type           = "type"
	Volume         = "volume"
)
