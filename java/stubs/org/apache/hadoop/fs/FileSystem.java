// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

import java.io.IOException;
import java.net.URI;

import org.apache.hadoop.fs.permission.FsPermission;

public abstract class FileSystem {
    public abstract URI getUri();

    public abstract Path getWorkingDirectory();

    public abstract FileStatus getFileStatus(Path path) throws IOException;

    public abstract FileStatus[] listStatus(Path path) throws IOException;

    public native FileStatus getFileLinkStatus(Path path) throws IOException;

    public native long getDefaultBlockSize(Path path);

    public native void setPermission(Path path, FsPermission permission) throws IOException;

    public native void setOwner(Path path, String user, String group) throws IOException;
}
