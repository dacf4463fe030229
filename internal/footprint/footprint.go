// Package footprint keeps the memory of a process small that does little most of the time.
package footprint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
)

// settle is after how long the work of the start is over.
const settle = 10 * time.Second

// TrimAfterStart lets go of the program's pages when the start is over, unless ctx ends before: more than half of the resident memory of an idle
// process are pages of its own file, most of which only the start needs. It does so once: those that are used again cost the call that uses
// them a few milliseconds.
func TrimAfterStart(ctx context.Context, clk clock.Clock, log *slog.Logger) {
	timer := clk.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C():
	}
	if err := (safe.Handler{Log: log}).Do(ctx, "let go of the program's pages", dropProgramPages); err != nil {
		log.DebugContext(ctx, "pages of the program stay in memory", logkeys.Error, err)
	}
}

// dropProgramPages unmaps the pages of the program's file that are in memory. Those that are used again are mapped again from the page cache.
// Only read-only mappings of the file are named: they hold nothing but what is in the file.
func dropProgramPages() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("path of the program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("mappings: %w", err)
	}
	defer func() { _ = maps.Close() }()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		from, to, ok := programRange(lines.Text(), program)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	if err := lines.Err(); err != nil {
		return errors.Join(errors.New("mappings"), err)
	}
	return nil
}

// programRange reads a line of /proc/self/maps (proc_pid_maps(5)): address perms offset dev inode pathname. It is false where the line is not
// about a read-only mapping of the program.
func programRange(line, program string) (from, to uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || strings.Join(fields[5:], " ") != program || fields[1] != "r-xp" && fields[1] != "r--p" {
		return 0, 0, false
	}
	first, last, _ := strings.Cut(fields[0], "-")
	begin, err1 := strconv.ParseUint(first, 16, 64)
	end, err2 := strconv.ParseUint(last, 16, 64)
	if err1 != nil || err2 != nil || end <= begin {
		return 0, 0, false
	}
	return uintptr(begin), uintptr(end), true
}
