//go:build chaos && amd64

package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// names are the system calls that are counted, and can be made to fail.
var names = map[uint64]string{
	unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2", unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_WRITEV: "writev",
	unix.SYS_PWRITE64: "pwrite64", unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "umount2",
	unix.SYS_FSOPEN: "fsopen", unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount", unix.SYS_MOVE_MOUNT: "move_mount",
	unix.SYS_OPEN_TREE: "open_tree", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_LINKAT: "linkat", unix.SYS_READLINKAT: "readlinkat",
	unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat",
	unix.SYS_FCHMODAT2: "fchmodat2", unix.SYS_FSTAT: "fstat", unix.SYS_NEWFSTATAT: "newfstatat", unix.SYS_STATX: "statx",
	unix.SYS_STATFS: "statfs", unix.SYS_FSTATFS: "fstatfs", unix.SYS_FSYNC: "fsync", unix.SYS_FTRUNCATE: "ftruncate",
	unix.SYS_GETDENTS64: "getdents64", unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg", unix.SYS_SOCKET: "socket",
	unix.SYS_CONNECT: "connect",
}

// withDescriptor are those whose first argument is a descriptor, not that of a directory.
var withDescriptor = []string{
	"read", "write", "writev", "pwrite64", "fchown", "fchmod", "fstat", "fstatfs", "fsync", "ftruncate", "getdents64", "sendto", "sendmsg", "connect",
}

// tracer follows all threads of a process, on the one thread of this program that may.
type tracer struct {
	pid   int
	plan  plan
	seen  report
	fails map[int]bool // threads whose current system call is made to fail
}

// attach is the helper that follows a driver that runs: attach PID PLAN. It prints a line when each system call of the driver is seen, and
// at the end of standard input it leaves the driver and prints its report.
func attach(args []string) error {
	runtime.LockOSThread()
	if len(args) != 2 {
		return errors.New("usage: attach PID PLAN")
	}
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	t := &tracer{pid: pid, fails: map[int]bool{}}
	if err := json.Unmarshal([]byte(args[1]), &t.plan); err != nil {
		return err
	}
	stops := make(chan os.Signal, 1)
	signal.Notify(stops, syscall.SIGCHLD)
	end := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(end) }()

	threads := map[int]bool{} // false: not stopped yet since it is followed
	if err := t.seize(threads); err != nil {
		return err
	}
	leaving, ready := false, false
	for {
		for {
			var ws unix.WaitStatus
			tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOHANG, nil)
			if errors.Is(err, unix.ECHILD) || tid == pid && (ws.Exited() || ws.Signaled()) {
				t.seen.Gone = !leaving || err == nil // else it runs, and no thread is followed any more
				return json.NewEncoder(os.Stdout).Encode(t.seen)
			}
			if err != nil {
				return err
			}
			if tid == 0 {
				break
			}
			if !ws.Stopped() {
				delete(threads, tid)
				continue
			}
			threads[tid] = true
			sig := t.stopped(tid, ws)
			if leaving && !t.fails[tid] {
				delete(threads, tid)
				err = ptrace(unix.PTRACE_DETACH, tid, 0, uintptr(sig))
			} else {
				err = unix.PtraceSyscall(tid, sig)
			}
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !ready && !leaving {
			if err := t.seize(threads); err != nil {
				return err
			}
			ready = true
			for _, stopped := range threads {
				ready = ready && stopped
			}
			if ready {
				fmt.Println("ready")
			}
		}
		if leaving && len(threads) == 0 {
			return json.NewEncoder(os.Stdout).Encode(t.seen)
		}
		select {
		case <-stops:
		case <-end:
			end, leaving = nil, true
			for tid := range threads {
				if err := unix.PtraceInterrupt(tid); err != nil {
					delete(threads, tid) // it has ended
				}
			}
		}
	}
}

// seize begins to follow the threads that are not followed yet.
func (t *tracer) seize(threads map[int]bool) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		if _, known := threads[tid]; known {
			continue
		}
		err = ptrace(unix.PTRACE_SEIZE, tid, 0, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EPERM) && t.follows(tid) { // it ended, or is followed since it was made
			continue
		}
		if err != nil {
			return fmt.Errorf("follow thread %d: %w", tid, err)
		}
		threads[tid] = false
		if err := unix.PtraceInterrupt(tid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// follows reports whether a thread is followed by this process already.
func (t *tracer) follows(tid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", t.pid, tid))
	return err != nil || strings.Contains(string(status), fmt.Sprintf("TracerPid:\t%d\n", os.Getpid()))
}

// stopped does what is to be done at a stop, and returns the signal that the thread gets.
func (t *tracer) stopped(tid int, ws unix.WaitStatus) int {
	switch {
	case ws.StopSignal() == unix.SIGTRAP|0x80:
		t.systemCall(tid)
		return 0
	case uint32(ws)>>16 != 0: // an event, such as a new thread
		return 0
	}
	return int(ws.StopSignal())
}

// systemCall is called at the begin and at the end of each system call.
func (t *tracer) systemCall(tid int) {
	var info systemCallInfo
	if err := ptrace(unix.PTRACE_GET_SYSCALL_INFO, tid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info))); err != nil {
		return // killed
	}
	switch info.Op {
	case unix.PTRACE_SYSCALL_INFO_EXIT:
		if t.fails[tid] {
			delete(t.fails, tid)
			setRegister(tid, func(r *unix.PtraceRegs) { r.Rax = uint64(-int64(t.plan.Errno)) })
		}
	case unix.PTRACE_SYSCALL_INFO_ENTRY:
		name := names[info.Number]
		if name == "" {
			return
		}
		what, ok := t.path(tid, name, info.Args)
		if !ok {
			return
		}
		t.seen.Calls = append(t.seen.Calls, name+" "+what)
		if len(t.seen.Calls) != t.plan.Call {
			return
		}
		t.seen.Hit = name + " " + what
		if t.plan.Errno == 0 {
			_ = syscall.Kill(t.pid, syscall.SIGKILL)
			return
		}
		t.fails[tid] = true
		setRegister(tid, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) })
	}
}

// path says what a system call is about, and whether it counts: what the runtime does by itself does not.
func (t *tracer) path(tid int, name string, args [6]uint64) (string, bool) {
	if slices.Contains(withDescriptor, name) {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", t.pid, int32(args[0])))
		if err != nil || strings.HasPrefix(link, "anon_inode:[event") || strings.HasPrefix(link, "pipe:") {
			return "", false
		}
		if name == "read" && !strings.HasPrefix(link, t.plan.Below) {
			return "", false
		}
		return t.short(link), true
	}
	switch name {
	case "socket":
		return fmt.Sprint(args[0]), true
	case "mount":
		return t.short(text(tid, args[1])), true
	case "umount2", "statfs", "rename":
		return t.short(text(tid, args[0])), true
	case "symlinkat":
		return text(tid, args[0]), true
	case "fsopen", "fsconfig", "fsmount", "move_mount", "open_tree":
		return "", true
	}
	path := text(tid, args[1])
	if strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/") {
		return "", false
	}
	if !filepath.IsAbs(path) {
		dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", t.pid, int32(args[0])))
		path = filepath.Join(dir, path)
	}
	return t.short(path), true
}

func (t *tracer) short(path string) string { return strings.TrimPrefix(path, t.plan.Below+"/") }

// text is a string of the process's memory.
func text(tid int, address uint64) string {
	var out []byte
	word := make([]byte, 8)
	for len(out) < 4096 {
		if _, err := unix.PtracePeekData(tid, uintptr(address)+uintptr(len(out)), word); err != nil {
			return ""
		}
		if end := slices.Index(word, 0); end >= 0 {
			return string(append(out, word[:end]...))
		}
		out = append(out, word...)
	}
	return string(out)
}

// systemCallInfo is struct ptrace_syscall_info of the kernel, as far as system calls go.
type systemCallInfo struct {
	Op     uint8
	_      [3]uint8
	_      uint32
	_, _   uint64
	Number uint64
	Args   [6]uint64
	_      uint64
}

func setRegister(tid int, set func(*unix.PtraceRegs)) {
	var regs unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &regs) != nil {
		return // killed
	}
	set(&regs)
	_ = unix.PtraceSetRegs(tid, &regs)
}

func ptrace(request, tid int, address, data uintptr) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), address, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// clockOf is the helper that runs a driver with a wall clock of its own: clock FILE COMMAND... The file holds how many seconds the
// clock is ahead, as an int64 of this machine, and may be written at any time. Time namespaces do not cover the wall clock. So the
// vDSO, which answers without a system call, is hidden from the driver, and the answers of the system calls are changed.
func clockOf(args []string) error {
	runtime.LockOSThread()
	if len(args) < 2 {
		return errors.New("usage: clock FILE COMMAND [ARGUMENT]")
	}
	ahead, err := os.Open(args[0])
	if err != nil {
		return err
	}
	memory, err := unix.Mmap(int(ahead.Fd()), 0, 8, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	seconds := (*int64)(unsafe.Pointer(&memory[0]))
	if err := os.Unsetenv(helper); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	command := exec.Command(args[1], args[2:]...) //nolint:noctx // it lives as long as this program
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return err
	}
	pid := command.Process.Pid
	go func() {
		for sig := range signals {
			_ = syscall.Kill(pid, sig.(syscall.Signal))
		}
	}()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
		return err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return err
	}
	if err := hideVDSO(pid); err != nil {
		return err
	}
	tid := pid
	for sig := 0; ; {
		if err := unix.PtraceSyscall(tid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		sig = 0
		for {
			if tid, err = unix.Wait4(-1, &ws, unix.WALL, nil); err != nil {
				return err
			}
			if ws.Stopped() {
				break
			}
			if tid == pid {
				os.Exit(ws.ExitStatus() & 0xff)
			}
		}
		switch {
		case ws.StopSignal() == unix.SIGTRAP|0x80:
			stepClock(tid, *seconds)
		case uint32(ws)>>16 != 0, ws.StopSignal() == unix.SIGSTOP: // an event, and the first stop of a thread
		default:
			sig = int(ws.StopSignal())
		}
	}
}

// hideVDSO removes the vDSO from what the kernel tells a program at its start, which is above the arguments on the stack.
func hideVDSO(pid int) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	word := func(at uint64) (uint64, error) {
		data := make([]byte, 8)
		_, err := unix.PtracePeekData(pid, uintptr(at), data)
		return *(*uint64)(unsafe.Pointer(&data[0])), err
	}
	arguments, err := word(regs.Rsp)
	if err != nil {
		return err
	}
	at := regs.Rsp + 8*(arguments+2)
	for value := uint64(1); value != 0; at += 8 { // the environment
		if value, err = word(at); err != nil {
			return err
		}
	}
	const vdso, ignore = 33, 1 // AT_SYSINFO_EHDR, AT_IGNORE
	for ; ; at += 16 {
		key, err := word(at)
		if err != nil {
			return err
		}
		switch key {
		case 0:
			return errors.New("the kernel passed no vDSO")
		case vdso:
			_, err := unix.PtracePokeData(pid, uintptr(at), []byte{ignore, 0, 0, 0, 0, 0, 0, 0})
			return err
		}
	}
}

// stepClock changes the answer of a system call for the wall clock that has just been made. At the begin of one the changed memory
// is overwritten by the kernel.
func stepClock(tid int, ahead int64) {
	var info systemCallInfo
	err := ptrace(unix.PTRACE_GET_SYSCALL_INFO, tid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)))
	if err != nil || info.Op != unix.PTRACE_SYSCALL_INFO_EXIT || ahead == 0 {
		return
	}
	var regs unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &regs) != nil {
		return
	}
	var at uintptr
	switch {
	case regs.Orig_rax == unix.SYS_CLOCK_GETTIME && (regs.Rdi == unix.CLOCK_REALTIME || regs.Rdi == unix.CLOCK_REALTIME_COARSE):
		at = uintptr(regs.Rsi)
	case regs.Orig_rax == unix.SYS_GETTIMEOFDAY:
		at = uintptr(regs.Rdi)
	default:
		return
	}
	data := make([]byte, 8)
	if _, err := unix.PtracePeekData(tid, at, data); err != nil {
		return
	}
	*(*int64)(unsafe.Pointer(&data[0])) += ahead
	_, _ = unix.PtracePokeData(tid, at, data)
}
