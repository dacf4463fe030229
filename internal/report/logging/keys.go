package logging

// The keys of structured log lines, in alphabetical order.
const (
	KeyClass          = "class"
	KeyCode           = "code"
	KeyDriver         = "driver"
	KeyDuration       = "duration"
	KeyError          = "error"
	KeyEvent          = "event"
	KeyMethod         = "method"
	KeyPod            = "pod"
	KeyReason         = "reason"
	KeyRequest        = "request"
	KeyServiceRequest = "x-ms-request-id"
	KeySocket         = "socket"
	KeySpan           = "span_id"
	KeyStack          = "stack"
	KeyTarget         = "target"
	KeyTask           = "task"
	KeyTrace          = "trace_id"
	KeyType           = "type"
	KeyVolume         = "volume"
)
