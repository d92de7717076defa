package config

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"go.yaml.in/yaml/v4"
)

// maxFileBytes bounds the configuration file and every file that it includes.
const maxFileBytes = 1 << 20

// Source says where a configuration comes from. The zero value of a field is
// its default.
type Source struct {
	Path      string                           // of the file
	LookupEnv func(name string) (string, bool) // nil means os.LookupEnv
	Hostname  func() (string, error)           // nil means os.Hostname
}

// Load reads and checks the file at path. See Source.Load.
func Load(path string) (*Config, error) { return Source{Path: path}.Load() }

// Load reads the file, applies defaults, expands references and validates.
// A file that is refused gives a *dr.Error with dr.CodeConfig around a
// *ProblemsError.
func (s Source) Load() (*Config, error) {
	if s.LookupEnv == nil {
		s.LookupEnv = os.LookupEnv
	}
	if s.Hostname == nil {
		s.Hostname = os.Hostname
	}
	l := &loader{src: s, file: filepath.Base(s.Path), lines: map[string]int{}}
	dir, err := filepath.Abs(filepath.Dir(s.Path))
	if err != nil {
		return nil, fmt.Errorf("find directory of %s: %w", s.Path, err)
	}
	l.dir = dir
	cfg := Default()
	cfg.Path = s.Path
	if root := l.parse(); root != nil {
		l.cfg = &cfg
		if l.decode(root); root.Kind == yaml.MappingNode {
			l.validate()
		}
	}
	if len(l.problems.List) > 0 {
		l.problems.sort()
		return nil, &dr.Error{Code: dr.CodeConfig, Err: &l.problems}
	}
	return &cfg, nil
}

// loader holds what one Load needs.
type loader struct {
	src      Source
	file     string // base name, for messages
	dir      string // absolute; relative paths of the file start here
	cfg      *Config
	lines    map[string]int // path -> line of its value
	problems ProblemsError
}

// add notes a problem at path. A path without a line of its own, such as a key
// that is missing, takes the line of its nearest parent.
func (l *loader) add(path, format string, args ...any) {
	line := 0
	for p := path; ; {
		if n, ok := l.lines[p]; ok {
			line = n
			break
		}
		i := strings.LastIndexByte(p, '.')
		if i < 0 {
			break
		}
		p = p[:i]
	}
	l.addAt(line, path, format, args...)
}

func (l *loader) addAt(line int, path, format string, args ...any) {
	p := Problem{File: l.file, Line: line, Path: path, Message: fmt.Sprintf(format, args...)}
	if !slices.Contains(l.problems.List, p) {
		l.problems.List = append(l.problems.List, p)
	}
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// parse returns the root mapping of the file, nil if there is none.
func (l *loader) parse() *yaml.Node {
	raw, err := readBounded(l.src.Path)
	if err != nil {
		l.addAt(0, "", "%s", readError(err))
		return nil
	}
	dec := yaml.NewDecoder(strings.NewReader(string(raw)))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		line := 0
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			line, _ = strconv.Atoi(m[1])
		}
		l.addAt(line, "", "not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if len(doc.Content) == 0 {
		l.addAt(0, "", "the file is empty")
		return nil
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		l.addAt(second.Line, "", "the file has more than one YAML document")
	}
	return doc.Content[0]
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFileBytes {
		return nil, fmt.Errorf("the file is larger than %d bytes", maxFileBytes)
	}
	return raw, nil
}

// readError shortens an error of package os, which repeats operation and path.
func readError(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return "cannot be read: " + pe.Err.Error()
	}
	return "cannot be read: " + err.Error()
}

// resolve makes a path of the file absolute.
func (l *loader) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(l.dir, path)
}

var reference = regexp.MustCompile(`\$?\$\{([^}]*)\}`)

// expand replaces ${env:NAME} and ${file:path}. "$${" stands for "${". refs is
// the number of references.
func (l *loader) expand(line int, path, text string) (out string, refs int) {
	if i := strings.LastIndex(text, "${"); i >= 0 && !strings.Contains(text[i:], "}") {
		l.addAt(line, path, "the reference is not closed by }")
		return "", 0
	}
	out = reference.ReplaceAllStringFunc(text, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		refs++
		kind, arg, _ := strings.Cut(ref[2:len(ref)-1], ":")
		switch {
		case kind == "env" && arg != "":
			v, ok := l.src.LookupEnv(arg)
			if !ok {
				l.addAt(line, path, "environment variable %s is not set", arg)
			}
			return v
		case kind == "file" && arg != "":
			raw, err := readBounded(l.resolve(arg))
			if err != nil {
				l.addAt(line, path, "file %s %s", arg, readError(err))
			}
			return strings.TrimRight(string(raw), "\r\n")
		}
		// The text is not repeated: it may be a secret with a typing error.
		l.addAt(line, path, "a reference is ${env:NAME} or ${file:path} (write $${ for a plain ${)")
		return ""
	})
	return out, refs
}

// defaultWorkerID tells processes apart: hosts by their name, and those of one
// host by the port of their API.
func (l *loader) defaultWorkerID(listen string) string {
	host, err := l.src.Hostname()
	if err != nil || host == "" {
		host = "worker"
	}
	if _, port, err := net.SplitHostPort(listen); err == nil {
		host += "-" + port
	}
	return host
}
