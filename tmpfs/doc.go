// Package tmpfs mounts one tmpfs per pod volume and writes files into it atomically: a reader sees one generation of
// files, never a mix. All answers about a volume come from its path, never from memory.
package tmpfs
