// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

import java.io.File;
import java.io.IOException;
import java.net.URI;

import org.apache.hadoop.fs.permission.FsPermission;

public class RawLocalFileSystem extends FileSystem {
    public native File pathToFile(Path path);

    protected native boolean mkOneDirWithMode(Path path, File folder, FsPermission permission)
            throws IOException;

    @Override
    public native URI getUri();

    @Override
    public native Path getWorkingDirectory();

    @Override
    public native FileStatus getFileStatus(Path path) throws IOException;

    @Override
    public native FileStatus[] listStatus(Path path) throws IOException;
}
