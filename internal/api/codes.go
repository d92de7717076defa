package api

import (
	"net/http"

	"github.com/anabranch/anabranch/internal/dr"
)

// CodeInfo says how a code looks from outside the program.
type CodeInfo struct {
	Code    dr.Code
	Status  int    // of an HTTP answer
	Exit    int    // of a command
	Meaning string // for the documentation
}

// ExitInterrupted is the exit code of a command that a signal ended, as shells
// report it.
const ExitInterrupted = 130

// ExitDiffers is the exit code of a command that found differences, where it was
// asked for one.
const ExitDiffers = 6

// Codes returns the table of codes: the only place that maps them.
func Codes() []CodeInfo {
	return []CodeInfo{
		{dr.CodeInternal, http.StatusInternalServerError, 1, "a promise of the program itself was broken"},
		{dr.CodeUsage, http.StatusBadRequest, 2, "wrong command line or request"},
		{dr.CodeConfig, http.StatusUnprocessableEntity, 2, "the configuration file is wrong"},
		{dr.CodeNotFound, http.StatusNotFound, 1, "no such replicator, topic, partition, group or route"},
		{dr.CodeUnreachable, http.StatusServiceUnavailable, 3, "a cluster or the server cannot be reached"},
		{dr.CodeUnauthorized, http.StatusForbidden, 4, "the credentials or the operation were refused"},
		{dr.CodeConflict, http.StatusConflict, 4, "the state forbids the operation now"},
		{dr.CodeRefused, http.StatusForbidden, 4, "a gate or a safety rule said no"},
		{dr.CodePartial, http.StatusInternalServerError, 5, "some of it was done, some was not"},
		{dr.CodeUnsupported, http.StatusNotImplemented, 1, "the broker lacks what is needed"},
	}
}

// infoOf returns the row of a code, that of CodeInternal for one that is unknown.
func infoOf(code dr.Code) CodeInfo {
	table := Codes()
	for _, row := range table {
		if row.Code == code {
			return row
		}
	}
	return table[0]
}

// StatusOf returns the HTTP status of a code.
func StatusOf(code dr.Code) int { return infoOf(code).Status }

// ExitOf returns the exit code of a code.
func ExitOf(code dr.Code) int { return infoOf(code).Exit }
