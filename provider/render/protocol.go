package render

// The limits of one process. The program applies them to itself before it reads its request.
const (
	// MaxOutput bounds what all tasks of a request make together, in bytes.
	MaxOutput = 1 << 20
	// MemoryLimit bounds the program's writable memory, in bytes. Go maps its heap in parts of 64 MiB, of which one fits.
	MemoryLimit = 128 << 20
	// StackLimit bounds the stack, in bytes: it is where a template that calls itself ends.
	StackLimit = 16 << 20
	// ProcessorSeconds bounds the processor time.
	ProcessorSeconds = 1
)

// Request is what the program is to do. Its tasks are numbered from 0: the extractions, then the templates.
type Request struct {
	// Files are the contents that templates may read, by path.
	Files map[string][]byte `json:"files,omitempty"`
	// Extractions evaluate expressions.
	Extractions []Extraction `json:"extractions,omitempty"`
	// Templates make files.
	Templates []Task `json:"templates,omitempty"`
}

// size is about how many bytes the program gets.
func (r Request) size() (size int) {
	for _, data := range r.Files {
		size += len(data)
	}
	for _, e := range r.Extractions {
		size += len(e.Text)
	}
	return size
}

// Extraction evaluates a JMESPath expression on a text.
type Extraction struct {
	Text string `json:"text"`
	// Format is one of the formats of package fields.
	Format     string `json:"format"`
	Expression string `json:"expression"`
}

// Task makes one file.
type Task struct {
	// Path names the template in errors.
	Path string `json:"path"`
	Text string `json:"text"`
	// Reads are the paths that the template may read. Those that are not in Request.Files do not exist now.
	Reads []string `json:"reads"`
}

// Progress is one line of the program's answer.
type Progress struct {
	Task int `json:"task"`
	// Done is false where the task begins: so it is known which one the program did not survive.
	Done bool `json:"done,omitempty"`
	// Data is what the task made.
	Data []byte `json:"data,omitempty"`
	// Null is true where an expression matches nothing.
	Null bool `json:"null,omitempty"`
	// Failure is why the task failed; nil where it did not.
	Failure *Failure `json:"failure,omitempty"`
}

// Failure is why a task failed. It holds nothing of a value.
type Failure struct {
	// Line is the line in the template's text, from 1; 0 where it is not known.
	Line int `json:"line,omitempty"`
	// Function is the function that failed, empty where none did.
	Function string `json:"function,omitempty"`
	Problem  string `json:"problem"`
}
